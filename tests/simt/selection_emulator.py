"""Cases for the emulated kernels over tokens: what goes into selection_driver.cpp and comes out."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from tests.simt.emulator import DTYPE_CODE, Answer, to_bytes

DIGIT_BITS = 11
BINS = 1 << DIGIT_BITS
STATE_WORDS = 5  # need, digits, resolved, value, id
MOMENT_SUMS = 12  # counted, skipped, then pairs of Σ logp, Σ A, Σ logp², Σ A², Σ logp·A


class Order(IntEnum):
    LARGEST = 0
    RANDOM = 1


class Rule(IntEnum):
    FLOOR = 0
    CEIL = 1
    QUANTILE = 2


class Form(IntEnum):
    CODE = 0
    OWN_LOGIT = 1
    EXACT = 2


class Map(IntEnum):
    EXP = 0
    LINEAR = 1


class _Operation(IntEnum):
    MOMENTS = 0
    MERGE = 1
    COVARIANCE = 2
    CLIPPED = 3
    SELECT = 4
    ENTROPY_CHANGE = 5
    STEER = 6


@dataclass(frozen=True)
class TokenCase:
    """One call. `arrays` in the driver's order, None where one is absent."""

    operation: _Operation
    dtype: torch.dtype
    count: int
    arrays: Sequence[Tensor | None]
    outputs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    choices: tuple[int, int] = (0, 0)
    numbers: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ranks: int = 1
    offset: int = 0
    seed: int = 1

    def encode(self) -> bytes:
        present = sum(1 << i for i, array in enumerate(self.arrays) if array is not None)
        header = (
            *(self.operation, DTYPE_CODE[self.dtype], self.count, present, self.offset, self.seed),
            *(*self.choices, self.ranks),
        )
        arrays = [to_bytes(array) for array in self.arrays if array is not None]
        return struct.pack("<9q3d", *header, *self.numbers) + b"".join(arrays)

    def decode(self, answer: Answer) -> dict[str, Tensor]:
        answer.raise_error()
        return {
            name: answer.tensor(dtype, shape, name) for name, (dtype, shape) in self.outputs.items()
        }


def moments_case(
    logp: Tensor, advantages: Tensor, mask: Tensor | None, **settings: int
) -> TokenCase:
    return TokenCase(
        *(_Operation.MOMENTS, logp.dtype, len(logp), [logp, advantages, mask]),
        outputs={"sums": (torch.float64, (MOMENT_SUMS,))},
        **settings,
    )


def merge_case(parts: Tensor, **settings: int) -> TokenCase:
    return TokenCase(
        *(_Operation.MERGE, torch.float64, len(parts), [parts]),
        outputs={"sums": (torch.float64, (MOMENT_SUMS,))},
        **settings,
    )


def covariance_case(
    logp: Tensor, advantages: Tensor, mask: Tensor | None, sums: Tensor, **settings: int
) -> TokenCase:
    return TokenCase(
        *(_Operation.COVARIANCE, logp.dtype, len(logp), [logp, advantages, mask, sums]),
        outputs={"covariance": (logp.dtype, (len(logp),))},
        **settings,
    )


def clipped_case(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    *,
    clip_low: float,
    clip_high: float,
    **settings: int,
) -> TokenCase:
    return TokenCase(
        *(_Operation.CLIPPED, logp.dtype, len(logp), [logp, old_logp, advantages, mask]),
        outputs={"clipped": (torch.bool, (len(logp),))},
        numbers=(clip_low, clip_high, 0.0),
        **settings,
    )


def digit_widths(
    dtype: torch.dtype, order: Order, rule: Rule, count: int, has_ids: bool
) -> tuple[list[int], list[int]]:
    """Bits of each digit of the value key and of the id key."""
    value_bits = 32 if order == Order.LARGEST and dtype == torch.float32 else 64
    breaks_ties = order == Order.LARGEST and rule != Rule.QUANTILE
    id_bits = (64 if has_ids else max(count - 1, 0).bit_length()) if breaks_ties else 0
    return _split(value_bits), _split(id_bits)


def _split(bits: int) -> list[int]:
    return [min(DIGIT_BITS, bits - at) for at in range(0, bits, DIGIT_BITS)]


def select_case(
    values: Tensor,
    mask: Tensor | None = None,
    *,
    excluded: Tensor | None = None,
    token_ids: Tensor | None = None,
    selection_seed: int | None = None,
    rule: Rule = Rule.FLOOR,
    low: float = -torch.inf,
    high: float = torch.inf,
    fraction: float,
    ranks: int = 1,
    **settings: int,
) -> TokenCase:
    """By value, or with `selection_seed` at random."""
    count = len(values)
    order = Order.LARGEST if selection_seed is None else Order.RANDOM
    seed = None if selection_seed is None else torch.tensor([selection_seed])
    widths = digit_widths(values.dtype, order, rule, count, token_ids is not None)
    passes = sum(map(len, widths))
    return TokenCase(
        *(_Operation.SELECT, values.dtype, count, [values, mask, excluded, token_ids, seed]),
        outputs={
            "counters": (torch.int64, (ranks, passes, BINS + 1)),
            "states": (torch.int64, (ranks, passes + 1, STATE_WORDS)),
            "selected": (torch.bool, (count,)),
        },
        choices=(order, rule),
        numbers=(low, high, fraction),
        ranks=ranks,
        **settings,
    )


def entropy_change_case(
    logp: Tensor,
    entropy: Tensor,
    collision: Tensor,
    collision_logp: Tensor,
    advantages: Tensor,
    ratio: Tensor | None,
    **settings: int,
) -> TokenCase:
    return TokenCase(
        *(_Operation.ENTROPY_CHANGE, logp.dtype, len(logp)),
        arrays=[logp, entropy, collision, collision_logp, advantages, ratio],
        outputs={"change": (logp.dtype, (len(logp),))},
        **settings,
    )


def steer_case(
    logp: Tensor,
    old_logp: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    collision: Tensor | None = None,
    collision_logp: Tensor | None = None,
    *,
    form: Form,
    weight_map: Map,
    lambda_min: float = 0.8,
    lambda_max: float = 1.0,
    floor: float = 0.02,
    **settings: int,
) -> TokenCase:
    count = len(logp)
    return TokenCase(
        *(_Operation.STEER, logp.dtype, count),
        arrays=[logp, old_logp, entropy, advantages, mask, collision, collision_logp],
        outputs={
            "range": (torch.int64, (2,)),
            "sizes": (logp.dtype, (count,)),
            "weights": (logp.dtype, (count,)),
        },
        choices=(form, weight_map),
        numbers=(lambda_min, lambda_max, floor),
        **settings,
    )
