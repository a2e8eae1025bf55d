"""The token functions inside PyTorch: registration, compile, fake tensors, inputs left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

import entropy_ext
from entropy_ext import (
    CovarianceMoments,
    PolicyStats,
    TokenStats,
    clip_cov,
    covariance,
    entropy_change,
    kl_cov,
    policy_stats,
    steer_weights,
    top_entropy,
)
from tests.selection import Batch, draw_batch, each_dtype
from tests.truth import same_bits

OPERATORS = torch.ops.entropy_ext
Seed = int | Tensor


def valid_batch(device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """[4, 9] tokens, NaN off the mask."""
    return draw_batch("torch", (4, 9), dtype, device)


def everything(b: Batch, seed: Seed) -> tuple[Tensor, ...]:
    """Every public function but policy_stats, all their arguments given."""
    moments = CovarianceMoments()
    moments.update(b.logp, b.advantages, b.mask)
    cov = covariance(b.logp, b.advantages, b.mask, moments=moments)
    clipped = cov > 2
    stats = TokenStats(
        b.logp, b.entropy, b.logp, collision=b.collision, collision_logp=b.collision_logp
    )
    change = entropy_change(stats, b.advantages, ratio=(b.logp - b.old_logp).exp())
    ours = (b.logp, b.old_logp, b.entropy, b.advantages, b.mask)
    extras = {"collision": b.collision, "collision_logp": b.collision_logp}
    return (
        cov,
        clip_cov(
            cov,
            b.mask,
            fraction=0.2,
            bounds=(-1.0, math.inf),
            clipped=clipped,
            seed=seed,
            token_ids=b.token_ids,
        ),
        kl_cov(cov, b.mask, fraction=0.3, token_ids=b.token_ids),
        top_entropy(b.entropy, b.mask, token_ids=b.token_ids),
        top_entropy(b.entropy, b.mask, rule="quantile"),
        change,
        steer_weights(*ours),
        steer_weights(*ours, form="own_logit", weight_map="linear", lambda_max=1.2),
        steer_weights(*ours, form="exact", weight_scale=change.abs().nan_to_num().amax(), **extras),
        moments.count,
        moments.covariance,
    )


def same(a: Tensor, b: Tensor) -> bool:
    return same_bits(a, b) if a.is_floating_point() else torch.equal(a, b)


def all_of_policy_stats(
    logits: Tensor, tokens: Tensor, b: Batch, seed: Seed, form: str
) -> PolicyStats:
    return policy_stats(
        logits,
        tokens,
        b.advantages,
        b.mask,
        old_logp=b.old_logp,
        fraction=0.2,
        bounds=(-1.0, math.inf),
        seed=seed,
        token_ids=b.token_ids,
        steer_form=form,  # type: ignore[arg-type]
    )


def operator_calls(b: Batch) -> dict[str, list[tuple[Any, ...]]]:
    """Arguments of every operator: all given; strided; empty; without what may be left out."""
    b = Batch(*(x.nan_to_num(-0.5) if x.is_floating_point() else x for x in b))
    seed = torch.tensor(3, device=b.logp.device)
    sums = OPERATORS.token_moments(b.logp, b.advantages, b.mask)
    scale = torch.tensor([0.0, 1.0], dtype=torch.float64, device=b.logp.device)
    calls: dict[str, list[tuple[Any, ...]]] = {}
    dense = Batch(*(x[b.mask] for x in b))
    for c in (b, Batch(*(x.t() for x in b)), Batch(*(x[:0] for x in b)), dense):
        for mask in (c.mask,) if c is not dense else (None,):
            given = mask is not None
            ids = c.token_ids if given else None
            cov = c.advantages
            old = c.old_logp if given else None
            extra = (c.collision, c.collision_logp) if given else (None, None)
            form = "exact" if given else "code"
            ours = (c.logp, c.old_logp, c.entropy, c.advantages, mask)
            ends = (scale if given else None, form, "linear", 0.8, 1.2, 0.02)
            stats = (c.logp, c.entropy, c.collision, c.collision_logp, c.advantages)
            arguments: dict[str, tuple[Any, ...]] = {
                "token_moments": (c.logp, c.advantages, mask),
                "merge_moments": (torch.stack([sums] * (3 if given else 1)),),
                "covariance": (c.logp, c.advantages, mask, sums if given else None),
                "clip_cov": (cov, mask, mask, seed, ids, 0.2, -1.0, math.inf),
                "kl_cov": (cov, mask, ids, 0.3),
                "top_entropy": (c.entropy, mask, ids, 0.2, "quantile" if given else "exact"),
                "entropy_change": (*stats, c.old_logp if given else None),
                "steer_weights": (*ours, *extra, *ends),
                "policy_selection": (
                    c.logp,
                    c.entropy,
                    c.advantages,
                    mask,
                    old,
                    *extra,
                    sums if given else None,
                    seed,
                    ids,
                    0.2,
                    0.2,
                    0.2,
                    -1.0,
                    math.inf,
                    form,
                    0.8,
                    0.02,
                ),
            }
            for name, values in arguments.items():
                calls.setdefault(name, []).append(values)
    return calls


@each_dtype
def test_opcheck(dtype: torch.dtype, device: torch.device) -> None:
    """Catches a schema that lies about aliasing, and a fake of the wrong shape, dtype or stride."""
    for name, calls in operator_calls(valid_batch(device, dtype)).items():
        for arguments in calls:
            torch.library.opcheck(getattr(OPERATORS, name).default, arguments)


def test_every_operator_is_checked(device: torch.device) -> None:
    """Catches a new operator that no case above calls."""
    from entropy_ext import ops_selection

    assert set(operator_calls(valid_batch(device))) == set(ops_selection.__all__)


def compiled_and_eager(
    function: Callable[..., Any], calls: list[tuple[Any, ...]], graphs: int = 1
) -> None:
    """The same bits from one graph, or as many as are due."""
    counter = CompileCounter()
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for arguments in calls:
        for a, b in zip(compiled(*arguments), function(*arguments), strict=True):
            assert (a is None) == (b is None)
            assert a is None or same(a, b)
    assert counter.frame_count == graphs


@pytest.mark.parametrize("kind", ["int", "tensor"])
def test_compile_when_the_seed_changes(kind: str, device: torch.device) -> None:
    """One graph for all seeds, negative and large ones too: catches a seed baked into it."""
    batch = valid_batch(device)
    seeds: list[Seed] = [3, 2, 12345678901, -7, 2**62]
    if kind == "tensor":
        seeds = [torch.tensor(seed, device=device) for seed in seeds]
    drawn = [everything(batch, seed)[1].tolist() for seed in seeds]
    assert len({str(d) for d in drawn}) == len(seeds)
    # The first int is taken for a constant; from the second on it is an input.
    calls = [(batch, seed) for seed in seeds]
    compiled_and_eager(everything, calls, graphs=2 if kind == "int" else 1)


def test_seed_as_int_and_as_tensor(device: torch.device) -> None:
    """The same choice by either."""
    batch = valid_batch(device)
    for seed in (0, 5, -1, 2**63 - 1, -(2**63)):
        a = everything(batch, seed)[1]
        b = everything(batch, torch.tensor(seed, device=device))[1]
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", ["code", "exact"])
def test_compile_policy_stats(form: str, device: torch.device) -> None:
    """One graph, the selection that of eager mode and the gradient too."""
    batch = valid_batch(device)
    random = torch.Generator().manual_seed(0)
    leaf = torch.randn(4, 9, 33, generator=random).to(device).requires_grad_()
    tokens = torch.zeros(4, 9, dtype=torch.int64, device=device)

    def step(logits: Tensor, seed: Tensor) -> tuple[Tensor, ...]:
        stats = all_of_policy_stats(logits * 1.5, tokens, batch, seed, form)
        ratio = (stats.logp - stats.logp.detach()).exp()
        weight = torch.where(stats.clip_cov, 0.0, stats.steer_weight)
        loss = (weight * ratio).sum() + stats.entropy.sum() + stats.lse.sum()
        return loss, stats.covariance, stats.clip_cov, stats.steer_weight

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for seed in (torch.tensor(4, device=device), torch.tensor(5, device=device)):
        got, expected = compiled(leaf, seed), step(leaf, seed)
        assert expected[2].any()
        for x, y in zip(got[1:], expected[1:], strict=True):
            assert same(x, y)
        gradients = [torch.autograd.grad(results[0], leaf)[0] for results in (got, expected)]
        assert gradients[0].abs().max() > 0
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


def described(results: tuple[Any, ...]) -> list[Any]:
    return [
        None if x is None else (x.shape, x.dtype, x.device, x.stride(), x.requires_grad)
        for x in results
    ]


@each_dtype
def test_fake_tensors(dtype: torch.dtype, device: torch.device) -> None:
    """Shapes, dtypes, devices and strides without a kernel: catches a host sync or a value."""

    def run(like: Callable[[Tensor], Tensor]) -> list[Any]:
        batch = Batch(*(like(x) for x in valid_batch(device, dtype)))
        logits = torch.zeros(4, 9, 33, dtype=dtype, device=device, requires_grad=True)
        tokens = torch.zeros(4, 9, dtype=torch.int64, device=device)
        seed = torch.zeros((), dtype=torch.int64, device=device)
        results = [*everything(batch, 7), *everything(batch, seed)]
        for form in ("code", "own_logit", "exact"):
            results += all_of_policy_stats(logits, tokens, batch, seed, form)
        return described(tuple(results))

    real = run(lambda x: x)
    with FakeTensorMode() as mode:
        # Under the mode a fake stands for the value, and any look at it raises.
        fake = run(mode.from_tensor)
    assert fake == real


def test_fake_tensors_are_checked_too(device: torch.device) -> None:
    """Catches a wrong shape that surfaces only when the compiled graph runs."""
    with FakeTensorMode():
        x, wide = torch.zeros(2, 3, device=device), torch.zeros(2, 4, device=device)
        mask = torch.ones(2, 4, dtype=torch.bool, device=device)
        with pytest.raises(ValueError, match=r"^advantages: expected shape \[2, 3\]"):
            covariance(x, wide, None)
        with pytest.raises(ValueError, match=r"^mask: expected shape \[2, 3\]"):
            kl_cov(x, mask)
        with pytest.raises(TypeError, match=r"^token_ids: expected int64"):
            clip_cov(x, None, seed=0, token_ids=x)


@each_dtype
def test_inputs_are_left_alone(dtype: torch.dtype, device: torch.device) -> None:
    """Neither their values nor their versions: catches −0 normalised or ids shifted in place."""
    batch = valid_batch(device, dtype)
    batch = batch._replace(advantages=torch.where(batch.advantages > 1, -0.0, batch.advantages))
    logits = torch.randn(4, 9, 33, dtype=dtype, device=device)
    tokens = torch.zeros(4, 9, dtype=torch.int64, device=device)
    seed = torch.tensor(-5, device=device)
    inputs = [*batch, logits, tokens, seed]
    before = [(x.clone(), x._version) for x in inputs]
    everything(batch, seed)
    all_of_policy_stats(logits, tokens, batch, seed, "exact")
    for x, (copy, version) in zip(inputs, before, strict=True):
        assert x._version == version
        assert same(x, copy)


@each_dtype
def test_results_share_no_memory(dtype: torch.dtype, device: torch.device) -> None:
    """Catches a result that is a view of an input or of a scratch buffer used again."""
    batch = valid_batch(device, dtype)
    first = everything(batch, 1)
    copies = [x.clone() for x in first]
    other = draw_batch("other", (4, 9), dtype, device)
    everything(other, 2)
    for x, copy in zip(first, copies, strict=True):
        assert torch.equal(x.nan_to_num(), copy.nan_to_num())
        for y in (*batch, *first):
            assert x is y or x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr()


def test_autocast_changes_nothing(device: torch.device) -> None:
    """Catches statistics cast to bfloat16, where a covariance has three digits left."""
    batch = valid_batch(device)
    expected = everything(batch, 1)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = everything(batch, 1)
    for a, b in zip(got, expected, strict=True):
        assert same(a, b)


def test_repeated_calls_agree(device: torch.device, set_threads: Callable[[int], None]) -> None:
    """Bit for bit, with any number of threads: catches counters that are not cleared."""
    batch = draw_batch("repeat", (9000,), torch.float32, device)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results += [everything(batch, 3), everything(batch, 3)]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert same(a, b)


def test_no_host_sync_on_cuda(device: torch.device) -> None:
    """What FakeTensorMode cannot see: a kernel that waits for the device."""
    if device.type != "cuda":
        pytest.skip("only CUDA has a device to wait for")
    batch = valid_batch(device)
    logits = torch.randn(4, 9, 33, device=device)
    tokens = torch.zeros(4, 9, dtype=torch.int64, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything(batch, 5)
        all_of_policy_stats(logits, tokens, batch, 5, "exact")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_public_names() -> None:
    """Catches a function that has to be dug out of a submodule."""
    for name in (
        "CovarianceMoments",
        "PolicyStats",
        "clip_cov",
        "covariance",
        "entropy_change",
        "kl_cov",
        "policy_stats",
        "steer_weights",
        "top_entropy",
    ):
        assert name in entropy_ext.__all__
        assert hasattr(entropy_ext, name)
