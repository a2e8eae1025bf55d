"""policy_stats: the separate functions' results, in one read of the logits."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import entropy_ext
from entropy_ext import TokenStats, policy_stats, reference, token_stats
from tests import draws
from tests.selection import each_api
from tests.selection_calls import ReadsOf
from tests.truth import same_bits, stats_dtype

SHAPE = (3, 14)
VOCAB = 77
EXTRAS = ("collision", "collision_logp", "varentropy", "max_logp")
each_form = pytest.mark.parametrize("form", ["code", "own_logit", "exact"])
each_logits_dtype = pytest.mark.parametrize("dtype", draws.DTYPES, ids=str)


def draw_inputs(dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Arguments of policy_stats, some tokens clipped by PPO, NaN in the padding."""
    random = draws.generator("policy_stats", dtype)
    # Standard deviation 3: candidates of Clip-Cov on either side of its bounds.
    logits = (3 * torch.randn(*SHAPE, VOCAB, generator=random)).to(dtype)
    flat = logits.double().softmax(-1).view(-1, VOCAB)
    tokens = torch.multinomial(flat, 1, generator=random).view(SHAPE)
    mask = torch.rand(SHAPE, generator=random) < 0.8
    temperature = draws.cycled_temperatures(math.prod(SHAPE), dtype).view(SHAPE)
    logp = reference.token_stats(logits, tokens, temperature=temperature).logp
    old_logp = logp + 0.3 * torch.randn(SHAPE, generator=random)
    advantages = 2 * torch.randn(SHAPE, generator=random)
    real = stats_dtype(dtype)
    ids = torch.randperm(500, generator=random)[: math.prod(SHAPE)].view(SHAPE)
    inputs = {
        "logits": torch.where(mask[..., None], logits, torch.nan).to(dtype),
        "tokens": torch.where(mask, tokens, -100),
        "advantages": torch.where(mask, advantages, torch.nan).to(real),
        "mask": mask,
        "old_logp": torch.where(mask, old_logp, torch.inf).to(real),
        "temperature": torch.where(mask, temperature, 0.0),
        "token_ids": ids,
    }
    return {name: value.to(device) for name, value in inputs.items()}


def separately(
    api: ModuleType, x: dict[str, Tensor], form: str, **options: Any
) -> tuple[TokenStats, Tensor, Tensor, Tensor]:
    """The four functions, one after another."""
    stats = api.token_stats(
        x["logits"], x["tokens"], temperature=x["temperature"], mask=x["mask"], extras=True
    )
    logp, entropy = stats.logp.detach(), stats.entropy.detach()
    cov = api.covariance(logp, x["advantages"], x["mask"], moments=options.get("moments"))
    clip = (options["clip_low"], options["clip_high"])
    ratio = torch.where(x["mask"], logp - x["old_logp"], 0.0).double().exp()
    a = torch.where(x["mask"], x["advantages"], 0.0).double()
    clipped = -a * ratio.clamp(1 - clip[0], 1 + clip[1]) > -a * ratio
    selected = api.clip_cov(
        cov,
        x["mask"],
        fraction=options["fraction"],
        bounds=options["bounds"],
        clipped=clipped,
        seed=options["seed"],
        token_ids=x["token_ids"],
    )
    weights = api.steer_weights(
        logp,
        x["old_logp"],
        entropy,
        x["advantages"],
        x["mask"],
        form=form,
        lambda_min=options["lambda_min"],
        floor=options["floor"],
        collision=stats.collision if form == "exact" else None,
        collision_logp=stats.collision_logp if form == "exact" else None,
    )
    return stats, cov, selected, weights


@each_api
@each_form
@each_logits_dtype
@pytest.mark.parametrize("moments", ["own", "given"])
def test_equals_the_separate_calls(
    moments: str, dtype: torch.dtype, form: str, api: ModuleType, device: torch.device
) -> None:
    """Bit for bit: catches another clip, another range, a default that is not passed on."""
    x = draw_inputs(dtype, device)
    options: dict[str, Any] = {
        "fraction": 0.1,
        "bounds": (0.25, 6.0),
        "seed": 3,
        "clip_low": 0.1,
        "clip_high": 0.15,
        "lambda_min": 0.6,
        "floor": 0.5,
    }
    if moments == "given":
        given = api.CovarianceMoments()
        given.update(*torch.tensor([[-9.0, 1.0], [3.0, 0.5]], device=device), None)
        options["moments"] = given
    got = api.policy_stats(**x, steer_form=form, **options)
    stats, cov, selected, weights = separately(api, x, form, **options)
    for name in ("logp", "entropy", "lse"):
        assert same_bits(getattr(got, name), getattr(stats, name)), name
    for name in EXTRAS:
        value = getattr(got, name)
        assert (value is not None) == (form == "exact")
        assert value is None or same_bits(value, getattr(stats, name)), name
    assert same_bits(got.covariance, cov)
    assert torch.equal(got.clip_cov, selected)
    assert same_bits(got.steer_weight, weights)
    assert got.covariance.dtype == stats_dtype(dtype)
    # The case has what it is to tell apart.
    valid = x["mask"]
    assert got.clip_cov.sum() == int(0.1 * valid.sum())
    assert (got.steer_weight[valid] < 0.99).any()
    assert ((cov > 0.25) & (cov < 6))[valid & ~selected].any()


@each_api
def test_defaults_are_the_papers(api: ModuleType, device: torch.device) -> None:
    """Catches a default that differs from the separate function's."""
    x = draw_inputs(torch.float32, device)
    options = {"fraction": 2e-4, "bounds": (1.0, 5.0), "seed": 0, "lambda_min": 0.8, "floor": 0.02}
    got = api.policy_stats(**x)
    _, cov, selected, weights = separately(api, x, "code", clip_low=0.2, clip_high=0.2, **options)
    assert same_bits(got.covariance, cov)
    assert torch.equal(got.clip_cov, selected)
    assert same_bits(got.steer_weight, weights)
    assert selected.sum() == 1


@each_api
def test_clipped_tokens_are_not_candidates(api: ModuleType, device: torch.device) -> None:
    """Everything else chosen: catches a clip of the other sign, or of the clamped ratio."""
    x = draw_inputs(torch.float32, device)
    options: dict[str, Any] = {"fraction": 1.0, "bounds": (-math.inf, math.inf)}
    logp = api.token_stats(
        x["logits"], x["tokens"], temperature=x["temperature"], mask=x["mask"]
    ).logp
    log_ratio, a, valid = logp - x["old_logp"], x["advantages"], x["mask"]
    binds = ((a > 0) & (log_ratio > math.log(1.3))) | ((a < 0) & (log_ratio < math.log(0.9)))
    got = api.policy_stats(**x, clip_low=0.1, clip_high=0.3, **options)
    assert torch.equal(got.clip_cov, valid & ~binds)
    assert (valid & binds).any()
    # Without the sampling policy ρ is 1, and nothing is clipped.
    on_policy = api.policy_stats(**(x | {"old_logp": None}), **options)
    assert torch.equal(on_policy.clip_cov, valid)


@each_api
def test_without_old_logp_the_ratio_is_one(api: ModuleType, device: torch.device) -> None:
    x = draw_inputs(torch.float32, device)
    logp = api.token_stats(
        x["logits"], x["tokens"], temperature=x["temperature"], mask=x["mask"]
    ).logp
    for form in ("code", "own_logit", "exact"):
        got = api.policy_stats(**(x | {"old_logp": None}), steer_form=form)
        same = api.policy_stats(**(x | {"old_logp": logp}), steer_form=form)
        for a, b in zip(got[-3:], same[-3:], strict=True):
            assert torch.equal(a, b)


@each_logits_dtype
@each_form
def test_gradients_are_those_of_token_stats(
    form: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Through logp, entropy and lse, bit for bit; what is selected and weighed carries none."""
    x = draw_inputs(dtype, device)
    x["logits"] = x["logits"].nan_to_num(0.0)
    gradients = []
    for function in (policy_stats, token_stats):
        leaf = x["logits"].clone().requires_grad_()
        if function is policy_stats:
            stats = policy_stats(**(x | {"logits": leaf}), steer_form=form)
            for name in (*EXTRAS, "covariance", "clip_cov", "steer_weight"):
                value = getattr(stats, name)
                assert value is None or not value.requires_grad, name
        else:
            stats = token_stats(leaf, x["tokens"], temperature=x["temperature"], mask=x["mask"])
        loss = (stats.logp * 1.5 + stats.entropy * 0.3 - stats.lse * 0.7).sum()
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    assert same_bits(*gradients)
    assert gradients[0].abs().max() > 0


@each_form
def test_logits_are_read_once(form: str, device: torch.device) -> None:
    """Catches a second softmax for the weights, and a copy of the logits."""
    x = draw_inputs(torch.bfloat16, device)
    x["logits"] = x["logits"][:, :-1]
    x = {k: v if k == "logits" else v[:, :-1] for k, v in x.items()}
    with ReadsOf(x["logits"].numel()) as reads:
        policy_stats(**x, steer_form=form)
    assert reads.calls == ["entropy_ext.token_stats_forward.default"]


@each_api
def test_empty_and_masked_batches(api: ModuleType, device: torch.device) -> None:
    """No tokens, and none that count: empty choice, zeros, no NaN."""
    x = draw_inputs(torch.float32, device)
    nothing = {k: v[:0] for k, v in x.items()}
    masked = x | {"mask": torch.zeros_like(x["mask"])}
    for inputs in (nothing, masked):
        got = api.policy_stats(**inputs, steer_form="exact")
        assert got.logp.shape == inputs["tokens"].shape
        values = [value for value in got if value is not None]
        assert len(values) == len(got) - 2  # there is no support
        for value in values:
            assert not value.any()


@each_api
def test_no_mask_is_a_mask_of_ones(api: ModuleType, device: torch.device) -> None:
    x = draw_inputs(torch.float32, device)
    ones = torch.ones_like(x["mask"])
    clean = {
        k: v.nan_to_num(0.5, posinf=-1.0) if v.is_floating_point() else v for k, v in x.items()
    }
    clean |= {"tokens": x["tokens"].clamp(min=0), "temperature": x["temperature"].clamp(min=0.5)}
    for a, b in zip(
        api.policy_stats(**(clean | {"mask": None})),
        api.policy_stats(**(clean | {"mask": ones})),
        strict=True,
    ):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("case", ["token of −inf", "row of NaN", "advantage", "old_logp"])
def test_a_valid_token_that_is_not_finite(case: str, device: torch.device) -> None:
    """On the CPU an error that names it; on CUDA NaN in that token, which is not selected."""
    x = draw_inputs(torch.float32, device)
    x = {k: v.clone() for k, v in x.items()}
    x["mask"][1, 4] = True
    x["tokens"][1, 4] = 5
    x["temperature"][1, 4] = 1.0
    x["logits"][1, 4] = 0.0
    x["advantages"][1, 4] = x["old_logp"][1, 4] = -0.5
    spoil = {
        "token of −inf": ("logits", (1, 4, 5), -math.inf, "logp"),
        "row of NaN": ("logits", (1, 4), math.nan, "logp"),
        "advantage": ("advantages", (1, 4), math.inf, "advantages"),
        "old_logp": ("old_logp", (1, 4), math.nan, "old_logp"),
    }
    name, position, value, named = spoil[case]
    x[name][position] = value
    options: dict[str, Any] = {"fraction": 1.0, "bounds": (-math.inf, math.inf)}
    if device.type == "cpu":
        with pytest.raises(ValueError, match=rf"^{named}\[1, 4\]: expected .*finite"):
            policy_stats(**x, **options)
        return
    got = policy_stats(**x, **options)
    rest = x["mask"].clone()
    rest[1, 4] = False
    without = policy_stats(**(x | {"mask": rest}), **options)
    assert got.steer_weight[1, 4].isnan()
    assert torch.equal(got.clip_cov[rest], without.clip_cov[rest])
    if case != "old_logp":
        assert not got.clip_cov[1, 4]
        assert got.covariance[1, 4].isnan()
        assert same_bits(got.covariance[rest], without.covariance[rest])


def test_moments_of_the_step_serve_a_micro_batch(device: torch.device) -> None:
    """Covariances of the parts are those of the whole."""
    x = draw_inputs(torch.float32, device)
    whole = policy_stats(**x)
    moments = entropy_ext.CovarianceMoments()
    moments.update(whole.logp, x["advantages"], x["mask"])
    parts = [
        policy_stats(**{k: v[rows] for k, v in x.items()}, moments=moments).covariance
        for rows in (slice(0, 1), slice(1, 3))
    ]
    assert same_bits(torch.cat(parts), whole.covariance)
