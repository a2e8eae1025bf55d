"""Support: the token ids that a sampler kept at each position, as compressed rows."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from entropy_ext.inputs_selection import check_tensors
from entropy_ext.top_k_top_p import kept_by, row_temperature

__all__ = ["Support", "check_support", "row_fault"]

_INT32_MAX = 2**31 - 1
# How many logits from_top_k_top_p sorts at a time: tens of megabytes of temporary memory.
_CHUNK = 1 << 21


@dataclass(frozen=True, eq=False)
class Support:
    """The token ids that top-k and top-p sampling kept: one set for each of N rows.

    Row r kept ids[offsets[r]:offsets[r + 1]], which are strictly increasing. Rows are the flattened
    leading dimensions of the logits. The sampled token need not be listed: token_stats always
    includes it.

    "Keep sampling mask" of DeepSeek-V3.2, arXiv 2512.02556.
    """

    offsets: Tensor
    """[N + 1] int64, from 0 to len(ids), never decreasing"""
    ids: Tensor
    """[kept] int32"""

    def __post_init__(self) -> None:
        check_support(self.offsets, self.ids)

    @classmethod
    def from_lists(
        cls, lists: Sequence[Sequence[int]], *, device: torch.device | str | None = None
    ) -> Support:
        """One list of ids for each row, in any order; repeated ids count once.

        Raises:
            ValueError: an id that is negative or above 2³¹ − 1, naming row and value.
        """
        rows = [sorted({operator.index(i) for i in row}) for row in lists]
        for r, row in enumerate(rows):
            if row and not 0 <= row[0] <= row[-1] <= _INT32_MAX:
                wrong = row[0] if row[0] < 0 else row[-1]
                raise ValueError(f"lists[{r}]: expected ids in [0, {_INT32_MAX}], got {wrong}")
        lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64, device=device)
        ids = torch.tensor([i for row in rows for i in row], dtype=torch.int32, device=device)
        return cls(lengths.cumsum(0), ids)

    @classmethod
    def from_top_k_top_p(
        cls,
        logits: Tensor,
        *,
        top_k: int | None = None,
        top_p: float = 1.0,
        temperature: float | Tensor = 1.0,
        mask: Tensor | None = None,
    ) -> Support:
        """The ids that top-k and then top-p keep of softmax(z/τ), as in vLLM and transformers.

        top-k keeps every token at least as likely as the k-th, so more than k if several tie with
        it. top-p renormalises what top-k left and keeps the smallest number of tokens, most likely
        first, whose mass reaches top_p, but at least one. If equal logits straddle that boundary,
        the frameworks leave the choice to their sort; here lower ids come first. Logits of −inf are
        never kept, nor is NaN, which does not count among the k and has no mass. In a row with
        logits of +inf, these are equally likely and all others are impossible.

        Rows are processed in batches, so that temporary memory does not grow with N. Waits for the
        device, because the size of the result depends on values. No gradient.

        Args:
            logits: [..., V] floating point, V ≥ 1; computed in float32 (float64 for float64
                logits), with masses summed in float64.
            top_k: at least 1, or None for no limit.
            top_p: in (0, 1]; 1 keeps everything that top-k left.
            temperature: τ > 0, a number or [...]; divides the logits before top-k and top-p.
            mask: [...] bool; rows where it is False keep nothing.

        Returns:
            Support of one row per token of the leading dimensions.

        Raises:
            TypeError, ValueError: an argument of the wrong type, dtype, shape or range; on every
                device also a temperature of an unmasked row that is not positive and finite.
        """
        check_tensors({"logits": logits}, mask=mask)
        if logits.ndim == 0 or not logits.is_floating_point():
            raise ValueError(
                "logits: expected floating-point logits [..., V], got "
                f"{list(logits.shape)} of {logits.dtype}"
            )
        if logits.shape[-1] == 0:
            raise ValueError("logits: expected at least one vocabulary column, got V = 0")
        if top_k is not None and _integer("top_k", top_k) < 1:
            raise ValueError(f"top_k: expected at least 1, or None, got {top_k}")
        if not isinstance(top_p, Real):
            raise TypeError(f"top_p: expected a number, got {top_p!r}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1], got {top_p}")
        if mask is not None and (mask.shape, mask.dtype) != (logits.shape[:-1], torch.bool):
            raise ValueError(
                f"mask: expected bool {list(logits.shape[:-1])}, got {mask.dtype} "
                f"{list(mask.shape)}"
            )
        z = logits.detach() if logits.ndim > 1 else logits.detach()[None]
        lead, device = z.shape[:-1], z.device
        compute = torch.float64 if z.dtype == torch.float64 else torch.float32
        wanted = torch.ones((), dtype=torch.bool, device=device) if mask is None else mask
        wanted = wanted.expand(lead)
        tau = row_temperature(temperature, wanted, compute)
        lengths = [torch.zeros(1, dtype=torch.int64, device=device)]
        ids = [torch.zeros(0, dtype=torch.int32, device=device)]
        step = max(1, _CHUNK // z.shape[-1])
        for first in range(0, lead.numel(), step):
            rows = torch.arange(first, min(first + step, lead.numel()), device=device)
            at = torch.unravel_index(rows, lead)
            kept = kept_by(z[at].to(compute) / tau[at][:, None], top_k, top_p) & wanted[at][:, None]
            lengths.append(kept.sum(-1))
            ids.append(kept.nonzero()[:, 1].int())
        return cls(torch.cat(lengths).cumsum(0), torch.cat(ids))

    def rows(self, index: Tensor | slice) -> Support:
        """The rows at `index`: int64 positions, an [N] bool mask, or a slice.

        Waits for the device, because the size of the result depends on values.

        Raises:
            TypeError: another kind of index.
            ValueError: offsets that do not rise from 0 to len(ids), naming position and value.
        """
        if isinstance(index, Tensor):
            if index.dtype not in (torch.int64, torch.bool) or index.ndim != 1:
                raise TypeError(
                    "index: expected a slice or a tensor of shape [n], int64 or bool, got "
                    f"{index.dtype} {list(index.shape)}"
                )
        elif not isinstance(index, slice):
            raise TypeError(f"index: expected a tensor or a slice, got {type(index).__name__}")
        self._check_offsets()
        picked = torch.arange(len(self.offsets) - 1, device=self.offsets.device)[index]
        lengths = self.offsets.diff()[picked]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = (self.offsets[:-1][picked] - offsets[:-1]).repeat_interleave(lengths)
        return Support(offsets, self.ids[torch.arange(len(shift), device=shift.device) + shift])

    def to(self, device: torch.device | str) -> Support:
        """The same sets on another device."""
        return Support(self.offsets.to(device), self.ids.to(device))

    def validate(self, vocab: int) -> None:
        """Raise ValueError, naming position and value, unless rows are sets of ids below vocab.

        token_stats checks this itself on the CPU. On CUDA that would make it wait for the device,
        so only this method does it there.

        Raises:
            TypeError: vocab is not an int.
        """
        _integer("vocab", vocab)
        self._check_offsets()
        offsets = self.offsets
        begin, end = offsets[:-1], offsets[1:]
        wrong = (self.ids < 0) | (self.ids >= vocab)
        rises = torch.ones_like(wrong)
        rises[1:] = self.ids[1:] > self.ids[:-1]
        rises[begin[begin < end]] = True  # nothing comes before the first id of a row
        wrong |= ~rises
        if wrong.any():
            row = int(torch.searchsorted(offsets, wrong.int().argmax(), right=True)) - 1
            raise ValueError(row_fault(offsets, self.ids, row, vocab))

    def _check_offsets(self) -> None:
        """Raise ValueError, naming position and value, unless they rise from 0 to len(ids)."""
        offsets, count = self.offsets, len(self.ids)
        begin, end = offsets[:-1], offsets[1:]
        bad = (begin < 0) | (begin > end) | (end > count)
        if len(bad) == 0:
            whole = offsets[0].item() == count == 0
        else:
            bad[0] |= begin[0] != 0
            bad[-1] |= end[-1] != count
            whole = True
        if not whole:
            raise ValueError(
                f"support.offsets[0]: expected 0 and no ids for no rows, got {offsets[0].item()} "
                f"and {count} ids"
            )
        if bad.any():
            raise ValueError(row_fault(offsets, self.ids, int(bad.int().argmax()), _INT32_MAX))


def check_support(
    offsets: Tensor, ids: Tensor, *, rows: int | None = None, device: torch.device | None = None
) -> None:
    """Raise TypeError or ValueError unless dtypes and shapes (and length and device, if given) fit.

    Reads no values, so it works for real and fake tensors.
    """
    for name, value, dtype in (("offsets", offsets, torch.int64), ("ids", ids, torch.int32)):
        if not isinstance(value, Tensor):
            raise TypeError(f"support.{name}: expected a tensor, got {type(value).__name__}")
        if value.dtype != dtype:
            raise TypeError(f"support.{name}: expected {dtype}, got {value.dtype}")
        if value.ndim != 1:
            raise ValueError(f"support.{name}: expected one dimension, got {list(value.shape)}")
        if value.device != (device or offsets.device):
            raise ValueError(
                f"support.{name}: expected device {device or offsets.device}, got {value.device}"
            )
    size = offsets.shape[0]  # symbolic under torch.compile, which len() is not
    if size == 0:
        raise ValueError("support.offsets: expected shape [N + 1], got [0]")
    if rows is not None and size != rows + 1:
        raise ValueError(
            f"support.offsets: expected shape [{rows + 1}], one more than the {rows} rows of the "
            f"logits, got [{size}]"
        )


def row_fault(offsets: Tensor, ids: Tensor, row: int, vocab: int) -> str:
    """Describes what is wrong with a row that is known to be malformed."""
    count = len(ids)
    begin, end = (int(x) for x in offsets[row : row + 2])
    if begin < 0 or (row == 0 and begin > 0):
        return f"support.offsets[{row}]: expected {'0' if row == 0 else '0 or more'}, got {begin}"
    if end < begin:
        return (
            f"support.offsets[{row + 1}]: expected at least support.offsets[{row}] = {begin}, "
            f"got {end}"
        )
    if end > count or (row + 2 == len(offsets) and end < count):
        bound = "at most " if end > count else ""
        return f"support.offsets[{row + 1}]: expected {bound}{count}, the number of ids, got {end}"
    kept = ids[begin:end]
    wrong = (kept < 0) | (kept >= vocab)
    wrong[1:] |= kept[1:] <= kept[:-1]
    place = int(wrong.int().argmax())
    here, position = int(kept[place]), begin + place
    if 0 <= here < vocab:
        return (
            f"support.ids[{position}]: expected more than support.ids[{position - 1}] = "
            f"{int(kept[place - 1])}, since the ids of row {row} increase, got {here}"
        )
    return f"support.ids[{position}]: expected a value in [0, {vocab}), got {here}"


def _integer(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {value!r}") from None
