"""Reductions over the responses to one prompt, without a host synchronisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_tensor
from entropy_ext.rl.precision import at_least_float32

__all__ = ["Groups"]


class Groups:
    """The responses of a batch, grouped by prompt id.

    Members need not be adjacent, and groups may differ in size. Sums run over segments of a stable
    sort, so on any device their bits are the same in every run. Sums, means and standard deviations
    of half-precision values are float32.

    Args:
        prompt: [B] int64, the same number for responses to the same prompt.
    """

    def __init__(self, prompt: Tensor) -> None:
        check_tensor("prompt", prompt, ndim=1, dtype=torch.int64)
        self._order = torch.argsort(prompt, stable=True)
        ordered = prompt.gather(0, self._order)
        position = torch.arange(len(prompt), device=prompt.device)
        starts = (ordered != ordered.roll(1)) | (position == 0)
        segment = starts.cumsum(0) - 1
        # One slot per response, of which only as many as there are groups are used: reading the
        # number of groups would wait for the device.
        self._counts = torch.zeros_like(ordered).scatter_add_(0, segment, torch.ones_like(ordered))
        self._segment = torch.empty_like(segment).scatter_(0, self._order, segment)
        self._first = self._counts.cumsum(0) - self._counts

    @property
    def index(self) -> Tensor:
        """[B] int64: the index of this response's group, from 0 in the order of prompt ids."""
        return self._segment

    @property
    def size(self) -> Tensor:
        """[B] int64: the number of responses in this response's group."""
        return self._counts.gather(0, self._segment)

    def first(self, values: Tensor) -> Tensor:
        """[B]: the value of the group's first member."""
        positions = self._first.gather(0, self._segment)
        return values.gather(0, self._order).gather(0, positions)

    def sum(self, values: Tensor) -> Tensor:
        """[B]: the sum over the group, for every member. `values` is [B], floating."""
        return self._reduce(at_least_float32(values), "sum", 0.0)

    def max(self, values: Tensor) -> Tensor:
        """[B]: the largest value of the group, for every member. `values` is [B], floating."""
        return self._reduce(values, "max", -math.inf)

    def logsumexp(self, values: Tensor) -> Tensor:
        """[B]: ln Σ exp over the group, for every member; −inf if all its values are −inf."""
        values = at_least_float32(values)
        top = self.max(values)
        # In a group of only −inf this would be −inf − (−inf).
        top = torch.where(torch.isfinite(top), top, 0.0)
        return top + self.sum((values - top).exp()).log()

    def rank(self, values: Tensor) -> Tensor:
        """[B] int64: the rank within the group, 0 for the smallest; ties in order of position."""
        by_value = torch.argsort(values, stable=True)
        order = by_value.gather(0, torch.argsort(self._segment.gather(0, by_value), stable=True))
        position = torch.arange(len(order), device=order.device)
        place = torch.empty_like(order).scatter_(0, order, position)
        return place - self._first.gather(0, self._segment)

    def sum_above(self, values: Tensor, by: Tensor) -> Tensor:
        """[B]: the sum of values over the members that rank higher in `by`; both [B] floating."""
        start = self._first.gather(0, self._segment)
        place = start + self.rank(by)
        values = at_least_float32(values)
        upto = torch.zeros_like(values).scatter_(0, place, values).cumsum(0)
        return upto.gather(0, start + self.size - 1) - upto.gather(0, place)

    def varies(self, values: Tensor) -> Tensor:
        """[B] bool: whether the members of the group differ in `values`, [B] of any dtype."""
        return self.sum((values != self.first(values)).to(torch.float32)) > 0

    def centred(self, values: Tensor) -> Tensor:
        """[B]: values minus the mean of their group; exactly 0 if all of the group are equal."""
        # Subtract a member of the group first: the computed mean of equal numbers may differ from
        # that number, and the difference would then be divided by a standard deviation of 0.
        values = at_least_float32(values)
        offset = values - self.first(values)
        return offset - self.sum(offset) / self.size

    def std(self, values: Tensor, *, unbiased: bool = True) -> Tensor:
        """[B]: the standard deviation of the group, for every member; 0 for a group of one."""
        squares = self.sum(self.centred(values).square())
        return (squares / (self.size - int(unbiased)).clamp(min=1)).sqrt()

    def _reduce(self, values: Tensor, reduction: str, initial: float) -> Tensor:
        check_tensor("values", values, shape=self._segment.shape, floating=True)
        reduced = torch.segment_reduce(
            values.gather(0, self._order),
            reduction,
            lengths=self._counts,
            initial=initial,
            unsafe=True,
        )
        return reduced.gather(0, self._segment)
