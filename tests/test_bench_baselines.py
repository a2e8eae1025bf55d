"""The benchmark compares like with like: baselines compute what the kernels compute."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.baselines import log_softmax_statistics, trl_statistics, verl_statistics
from bench.candidates import IMPLEMENTATIONS
from bench.results import useful_bytes
from entropy_ext import reference

Statistics = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def truth(logits: Tensor, tokens: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """logp, entropy and the gradient of Σ upstream·(logp + entropy), in float64."""
    leaf = logits.double().requires_grad_()
    stats = reference.token_stats(leaf, tokens)
    ((stats.logp + stats.entropy) * upstream).sum().backward()
    assert leaf.grad is not None
    return stats.logp.detach(), stats.entropy.detach(), leaf.grad


# Errors of the baselines in ulps: eps of the output's dtype times its largest value. TRL's and
# verl's formulas in half precision carry the roundings of both factors of p·ln p besides their own;
# verl's entropy is the difference of two numbers several times its size, in every dtype.
@pytest.mark.parametrize(
    ("statistics", "dtype", "logp_ulps", "entropy_ulps", "gradient_ulps"),
    [
        (log_softmax_statistics, torch.float32, 1, 3, 5),
        (trl_statistics, torch.float32, 1, 3, 5),
        (verl_statistics, torch.float32, 1, 16, 30),
        (log_softmax_statistics, torch.bfloat16, 1, 3, 0.51),
        (trl_statistics, torch.bfloat16, 0.51, 2, 1.5),
        (verl_statistics, torch.bfloat16, 0.51, 3, 2.5),
    ],
)
def test_baselines_compute_what_we_compute(
    statistics: Statistics,
    dtype: torch.dtype,
    logp_ulps: float,
    entropy_ulps: float,
    gradient_ulps: float,
) -> None:
    """Fails if a baseline computes another quantity, so that its time would say nothing.

    300 rows span three sequences and entropy chunks, the last one short.
    """
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(300, 1003, generator=generator)).to(dtype)
    tokens = torch.randint(1003, (300,), generator=generator)
    upstream = torch.rand(300, generator=generator, dtype=torch.float64)
    logp, entropy, gradient = truth(logits, tokens, upstream)

    leaf = logits.clone().requires_grad_()
    got_logp, got_entropy = statistics(leaf, tokens)
    ((got_logp.double() + got_entropy.double()) * upstream).sum().backward()

    for got, expected, ulps in (
        (got_logp, logp, logp_ulps),
        (got_entropy, entropy, entropy_ulps),
        (leaf.grad, gradient, gradient_ulps),
    ):
        ulp = torch.finfo(got.dtype).eps * expected.abs().max()
        assert (got.detach().double() - expected).abs().max() <= ulps * ulp


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_baseline_computes_what_we_compute() -> None:
    """Fails if torch.compile is timed on something else than the eager baseline."""
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(6, 1003, generator=generator)
    tokens = torch.randint(1003, (6,), generator=generator)
    logp, entropy, gradient = truth(logits, tokens, torch.ones(6, dtype=torch.float64))
    leaf = logits.clone().requires_grad_()
    got_logp, got_entropy = IMPLEMENTATIONS["compile"]()(leaf, tokens)
    (got_logp + got_entropy).sum().backward()
    torch.testing.assert_close(got_logp.double(), logp, rtol=1e-6, atol=0)
    torch.testing.assert_close(got_entropy.double(), entropy, rtol=1e-6, atol=0)
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=0, atol=1e-6)


def test_useful_bytes_of_the_reference_point() -> None:
    """Fails if a pass is charged another number of transfers."""
    logits = 311_164_928  # 512 × 151936 × 4 bytes
    counted = [useful_bytes(d, 512, 151936, 4) for d in ("forward", "backward", "forward+backward")]
    assert counted == [logits, 2 * logits, 3 * logits]
