"""The token functions inside PyTorch: registration, fake tensors, inputs left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import entropy_ext
from entropy_ext import (
    CovarianceMoments,
    TokenStats,
    clip_cov,
    covariance,
    entropy_change,
    kl_cov,
    steer_weights,
    top_entropy,
)
from tests.selection import Batch, draw_batch, each_dtype
from tests.selection_calls import all_of_policy_stats, everything, same, valid_batch

OPERATORS = torch.ops.entropy_ext


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
    from entropy_ext import ops_selection, ops_weights

    assert set(operator_calls(valid_batch(device))) == {
        *ops_selection.__all__,
        *ops_weights.__all__,
    }


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


def differentiable(b: Batch) -> list[Tensor]:
    """Every function, of inputs that all require a gradient."""
    x = Batch(*(t.requires_grad_() if t.is_floating_point() else t for t in b))
    stats = TokenStats(
        x.logp, x.entropy, x.logp, collision=x.collision, collision_logp=x.collision_logp
    )
    ours = (x.logp, x.old_logp, x.entropy, x.advantages, x.mask)
    extras = {"collision": x.collision, "collision_logp": x.collision_logp}
    moments = CovarianceMoments()
    moments.update(x.logp, x.advantages, x.mask)
    return [
        entropy_change(stats, x.advantages, ratio=x.old_logp),
        steer_weights(*ours),
        steer_weights(*ours, form="exact", **extras),
        steer_weights(*ours, weight_scale=x.entropy[x.mask].sum()),
        covariance(x.logp, x.advantages, x.mask),
        covariance(x.logp, x.advantages, x.mask, moments=moments),
        kl_cov(x.advantages, x.mask),
        clip_cov(x.advantages, x.mask, seed=0),
        top_entropy(x.entropy, x.mask),
        moments.covariance,
    ]


def test_no_gradient_flows(device: torch.device) -> None:
    """From no input: catches one that is not detached, of an operator without a backward."""
    batch = valid_batch(device)
    assert [x.requires_grad for x in differentiable(batch)] == [False] * 10
    torch.compiler.reset()
    b = valid_batch(device)
    compiled = torch.compile(steer_weights, fullgraph=True, backend="aot_eager")
    weights = compiled(
        b.logp,
        b.old_logp,
        b.entropy,
        b.advantages,
        b.mask,
        form="exact",
        collision=b.collision.requires_grad_(),
        collision_logp=b.collision_logp.requires_grad_(),
    )
    assert not weights.requires_grad


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
