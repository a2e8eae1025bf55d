"""Reductions over the responses to one prompt, without a host synchronisation."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.rl.checks import check_tensor

__all__ = ["Groups"]


class Groups:
    """The responses of a batch, gathered by prompt id.

    Members need not be adjacent and groups need not be of one size. The sums run over segments of
    a stable sort, so they are the same bits from run to run on any device.

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
    def size(self) -> Tensor:
        """[B] int64: how many responses share this response's prompt, itself included."""
        return self._counts.gather(0, self._segment)

    def first(self, values: Tensor) -> Tensor:
        """[B]: the value of the group's first member."""
        positions = self._first.gather(0, self._segment)
        return values.gather(0, self._order).gather(0, positions)

    def sum(self, values: Tensor) -> Tensor:
        """[B]: the sum over the group, at every member. `values` is [B], floating."""
        check_tensor("values", values, shape=self._segment.shape, floating=True)
        sums = torch.segment_reduce(
            values.gather(0, self._order), "sum", lengths=self._counts, initial=0, unsafe=True
        )
        return sums.gather(0, self._segment)

    def centred(self, values: Tensor) -> Tensor:
        """[B]: values minus their group's mean; exactly 0 where the whole group is equal."""
        # Measured from a member of the group rather than from 0: the mean of equal numbers need
        # not round back to that number, and the difference would then be divided by a std of 0.
        offset = values - self.first(values)
        return offset - self.sum(offset) / self.size

    def std(self, values: Tensor, *, unbiased: bool = True) -> Tensor:
        """[B]: the group's standard deviation at every member; 0 for a group of one."""
        squares = self.sum(self.centred(values).square())
        return (squares / (self.size - int(unbiased)).clamp(min=1)).sqrt()
