"""Numbers per token for the tests of the emulated kernels, and formulas at two precisions.

Truth is a formula in float64 (long double for float64 input), the baseline what NumPy makes of it
at the precision of the input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tests import draws
from tests.simt import toolchain
from tests.simt.selection_emulator import Form

# A lane, a warp less one, a block and one, a tile and one, some tiles.
COUNTS = (1, 31, 257, 4097, 10000)
DTYPES = (torch.float32, torch.float64)
Inputs = dict[str, Tensor]


def more_than_a_grid(file: str, blocks: str, tokens: str) -> int:
    """Tokens for one tile more than a launch has blocks, and an odd end.

    `blocks` and `tokens` are the constants of csrc/cuda/<file> that limit the grid and say how many
    tokens a thread takes.
    """
    source = (toolchain.CSRC / "cuda" / file).read_text()
    known = {"kThreads": 256}

    def constant(name: str) -> int:
        (value,) = re.findall(rf"constexpr \w+ {name} = (\w+);", source)
        return known[value] if value in known else int(value)

    tile = known["kThreads"] * constant(tokens)
    return (constant(blocks) + 1) * tile + 5


def draw_inputs(count: int, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
    """Numbers of true distributions, peaked and flat, and a mask; NaN in the padding."""
    random = draws.generator("weights", count, dtype)
    sharpness = torch.rand(count, 1, generator=random, dtype=torch.float64) * 8
    log_p = torch.randn(count, 30, generator=random, dtype=torch.float64).mul(sharpness)
    log_p = log_p.log_softmax(-1)
    p = log_p.exp()
    token = torch.multinomial(p, 1, generator=random)
    mask = torch.rand(count, generator=random) < 0.7
    mask[0] = True
    logp = log_p.gather(1, token)[:, 0]
    inputs = {
        "logp": logp,
        "old_logp": logp + torch.randn(count, generator=random, dtype=torch.float64) * 0.3,
        "entropy": -(p * log_p).sum(-1),
        "advantages": torch.randn(count, generator=random, dtype=torch.float64),
        "collision": p.square().sum(-1),
        "collision_logp": (p.square() * log_p).sum(-1),
    }
    inputs["old_logp"] = inputs["old_logp"].clamp(max=0)
    return {k: x.masked_fill(~mask, math.nan).to(dtype) for k, x in inputs.items()}, mask


def compute_in(dtype: torch.dtype, *, truth: bool) -> type[np.floating]:
    if truth:
        return np.float64 if dtype == torch.float32 else np.longdouble
    return np.float32 if dtype == torch.float32 else np.float64


def evaluate(
    formula: Callable[..., np.ndarray], inputs: Inputs, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(truth, baseline) of the formula, both as float64."""
    results = []
    for truth in (True, False):
        number = compute_in(dtype, truth=truth)
        arrays = {name: x.numpy().astype(number) for name, x in inputs.items()}
        results.append(torch.from_numpy(formula(**arrays).astype(np.float64)))
    return results[0], results[1]


def entropy_change(
    logp: np.ndarray,
    old_logp: np.ndarray,
    entropy: np.ndarray,
    advantages: np.ndarray,
    collision: np.ndarray,
    collision_logp: np.ndarray,
) -> np.ndarray:
    """−ρ·A·(S − Σ p²(ln p + H)), S = p(ln p + H), ρ = exp(logp − old_logp)."""
    p = np.exp(logp)
    mean = collision_logp + entropy * collision
    return -np.exp(logp - old_logp) * advantages * (p * (logp + entropy) - mean)


def own_logit(
    logp: np.ndarray,
    old_logp: np.ndarray,
    entropy: np.ndarray,
    advantages: np.ndarray,
    **_: np.ndarray,
) -> np.ndarray:
    p = np.exp(logp)
    return np.exp(logp - old_logp) * advantages * p * (logp + entropy) * (1 - p)


def code(
    logp: np.ndarray,
    old_logp: np.ndarray,
    entropy: np.ndarray,
    advantages: np.ndarray,
    **_: np.ndarray,
) -> np.ndarray:
    p = np.exp(logp).clip(1e-8, 1 - 1e-8)
    old_p = np.exp(old_logp).clip(1e-8, 1)
    return advantages / old_p * p * (1 - p) * (np.log(p) + entropy)


FORMULAS = {Form.CODE: code, Form.OWN_LOGIT: own_logit, Form.EXACT: entropy_change}
