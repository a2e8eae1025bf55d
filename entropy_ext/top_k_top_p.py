"""The rules of top-k and top-p sampling applied to rows, and the temperature before them."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

__all__ = ["kept_by", "row_temperature"]


def row_temperature(temperature: float | Tensor, wanted: Tensor, dtype: torch.dtype) -> Tensor:
    """One temperature per row; those of the wanted rows are checked to be positive and finite."""
    if not isinstance(temperature, (Tensor, Real)):
        raise TypeError(
            f"temperature: expected a number or a tensor, got {type(temperature).__name__}"
        )
    tau = torch.as_tensor(temperature, dtype=dtype, device=wanted.device).detach()
    if tau.ndim > 0 and tau.shape != wanted.shape:
        raise ValueError(
            f"temperature: expected a number or shape {list(wanted.shape)}, the logits' without "
            f"the vocabulary, got {list(tau.shape)}"
        )
    each = tau.expand(wanted.shape)
    wrong = wanted & ~((each > 0) & each.isfinite())
    if wrong.any():
        where = "" if tau.ndim == 0 else str([int(i) for i in wrong.nonzero()[0]])
        raise ValueError(
            f"temperature{where}: expected a positive finite number, got {each[wrong][0].item()}"
        )
    return each


def kept_by(z: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Which entries top-k and then top-p keep: z [n, V] → bool [n, V]."""
    z = z.masked_fill(z.isnan(), -torch.inf)
    endless = z == torch.inf
    z = torch.where(endless.any(-1, keepdim=True), endless.to(z.dtype).log(), z)
    kept = z > -torch.inf
    if top_k is not None and top_k < z.shape[-1]:
        kept &= z >= z.topk(top_k).values[:, -1:]
    if top_p == 1:
        return kept
    mass = z.masked_fill(~kept, -torch.inf).double().softmax(-1)
    # Tokens no likelier than (1 − top_p)/V have a total mass of at most 1 − top_p, so the others
    # reach top_p without them. Only those others are sorted, which are few in a peaked row.
    kept &= mass > 0.999 * (1 - top_p) / z.shape[-1]
    row, column = kept.nonzero(as_tuple=True)
    lengths = kept.sum(-1)
    place = torch.arange(len(row), device=z.device) - (lengths.cumsum(0) - lengths)[row]
    dense = mass.new_zeros(len(z), int(lengths.max()))
    dense[row, place] = mass[row, column]
    ordered, order = dense.sort(dim=-1, descending=True, stable=True)
    wanted = ordered.cumsum(-1) - ordered < top_p  # those before it do not reach top_p
    kept[row, column] = torch.zeros_like(wanted).scatter(-1, order, wanted)[row, place]
    return kept
