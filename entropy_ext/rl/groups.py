"""Reductions over the responses to one prompt, without a host synchronisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_tensor
from entropy_ext.rl.precision import at_least_float32

__all__ = ["Groups"]


class Groups:
    """The responses of a batch, gathered by prompt id.

    Members need not be adjacent and groups need not be of one size. The sums run over segments of
    a stable sort, so they are the same bits from run to run on any device. Sums, means and standard
    deviations of half-precision values are float32.

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
        # One slot per response, of which only the first (number of groups) are used: their number
        # is not known without asking the device.
        self._counts = torch.zeros_like(ordered).scatter_add_(0, segment, torch.ones_like(ordered))
        self._segment = torch.empty_like(segment).scatter_(0, self._order, segment)
        self._first = self._counts.cumsum(0) - self._counts

    @property
    def index(self) -> Tensor:
        """[B] int64: the number of this response's group, from 0 in the order of prompt ids."""
        return self._segment

    @property
    def size(self) -> Tensor:
        """[B] int64: how many responses share this response's prompt, itself included."""
        return self._counts.gather(0, self._segment)

    def first(self, values: Tensor) -> Tensor:
        """[B]: the value of the group's first member."""
        positions = self._first.gather(0, self._segment)
        return values.gather(0, self._order).gather(0, positions)

    def sum(self, values: Tensor) -> Tensor:
        """[B]: the sum over the group, at every member. `values` is [B], floating."""
        return self._reduce(at_least_float32(values), "sum", 0.0)

    def max(self, values: Tensor) -> Tensor:
        """[B]: the largest value of the group, at every member. `values` is [B], floating."""
        return self._reduce(values, "max", -math.inf)

    def logsumexp(self, values: Tensor) -> Tensor:
        """[B]: ln Σ exp over the group, at every member; −inf where every member's value is."""
        values = at_least_float32(values)
        top = self.max(values)
        # A group of −inf alone would be −inf − (−inf).
        top = torch.where(torch.isfinite(top), top, 0.0)
        return top + self.sum((values - top).exp()).log()

    def rank(self, values: Tensor) -> Tensor:
        """[B] int64: the place among the group from 0, the smallest; ties in order of position."""
        by_value = torch.argsort(values, stable=True)
        order = by_value.gather(0, torch.argsort(self._segment.gather(0, by_value), stable=True))
        position = torch.arange(len(order), device=order.device)
        place = torch.empty_like(order).scatter_(0, order, position)
        return place - self._first.gather(0, self._segment)

    def sum_above(self, values: Tensor, by: Tensor) -> Tensor:
        """[B]: the sum of values over the members of a higher rank by `by`, both [B] floating."""
        start = self._first.gather(0, self._segment)
        place = start + self.rank(by)
        values = at_least_float32(values)
        upto = torch.zeros_like(values).scatter_(0, place, values).cumsum(0)
        return upto.gather(0, start + self.size - 1) - upto.gather(0, place)

    def varies(self, values: Tensor) -> Tensor:
        """[B] bool: whether the members of the group differ in `values`, [B] of any dtype."""
        return self.sum((values != self.first(values)).to(torch.float32)) > 0

    def centred(self, values: Tensor) -> Tensor:
        """[B]: values minus their group's mean; exactly 0 where the whole group is equal."""
        # Measured from a member of the group rather than from 0: the mean of equal numbers need
        # not round back to that number, and the difference would then be divided by a std of 0.
        values = at_least_float32(values)
        offset = values - self.first(values)
        return offset - self.sum(offset) / self.size

    def std(self, values: Tensor, *, unbiased: bool = True) -> Tensor:
        """[B]: the group's standard deviation at every member; 0 for a group of one."""
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
