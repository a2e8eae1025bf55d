"""Argument checks shared by the primitives, so that all errors are worded alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["check_bound", "check_choice", "check_flag", "check_tensor"]

N = TypeVar("N", bound="float | None")
C = TypeVar("C", bound="str | None")


def check_tensor(
    name: str,
    value: object,
    *,
    shape: tuple[int, ...] | torch.Size | None = None,
    dtype: torch.dtype | None = None,
    ndim: int | None = None,
    floating: bool = False,
) -> None:
    """Raise unless `value` is a tensor of the expected shape, rank and dtype.

    Raises:
        TypeError: not a tensor, or the wrong dtype.
        ValueError: the wrong shape or rank.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimension(s), got shape {list(value.shape)}")
    if shape is not None and value.shape != torch.Size(shape):
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    if dtype is not None and value.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {value.dtype}")
    if floating and not value.dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")


def check_bound(
    name: str,
    value: N,
    *,
    above: float | None = None,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    integer: bool = False,
    finite: bool = False,
    optional: bool = False,
) -> N:
    """Returns the value if it is a number with above < value and at_least ≤ value ≤ at_most.

    NaN is never accepted. Infinities are, unless a bound or `finite` excludes them, and so is None
    if `optional`.

    Raises:
        TypeError: not a number (bools and tensors are not accepted), or a fraction with `integer`.
        ValueError: out of bounds.
    """
    if value is None and optional:
        return value
    # The builtin types first: torch.compile can trace them, but not the abstract ones.
    known = isinstance(value, int if integer else (int, float))
    if isinstance(value, bool) or not (known or isinstance(value, Integral if integer else Real)):
        kind = "an integer" if integer else "a number"
        raise TypeError(f"{name}: expected {kind}, got {value!r}")
    assert value is not None
    inside = (above is None or value > above) and at_least <= value <= at_most
    if inside and not (finite and math.isinf(value)):
        return value
    wanted = [
        *([f"> {above:g}"] if above is not None else []),
        *([f">= {at_least:g}"] if at_least > -math.inf else []),
        *([f"<= {at_most:g}"] if at_most < math.inf else []),
    ]
    bounds = f" {' and '.join(wanted)}" if wanted else ""
    number = "a finite number" if finite else "a number"
    raise ValueError(f"{name}: expected {number}{bounds}, got {value}")


def check_choice(name: str, value: C, choices: Iterable[str]) -> C:
    """Returns the value; raises ValueError unless it is one of the choices."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Returns the value; raises TypeError unless it is a bool (the string "false" is true)."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value
