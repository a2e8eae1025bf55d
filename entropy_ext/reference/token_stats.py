"""Token statistics in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from entropy_ext.support import Support
from entropy_ext.token_stats import TokenStats

__all__ = ["kept_mask", "token_stats"]


def token_stats(
    logits: Tensor,
    tokens: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    support: Support | None = None,
    extras: bool = False,
) -> TokenStats:
    """Log-probability, entropy and log-sum-exp of every token, by autograd-friendly tensor ops.

    With t = (z − max z)/τ, Σ = Σⱼ exp tⱼ and ln pⱼ = tⱼ − ln Σ:
    logp = ln p[token],  entropy = −Σⱼ pⱼ ln pⱼ,  lse = max z/τ + ln Σ.
    support_logp and support_entropy are logp and entropy where every logit not kept is −inf.

    Gradient flows to logits through these five; the extras carry none.

    Args:
        logits: [..., V], any floating dtype; half precision is computed in float32.
        tokens: [...] int64.
        temperature: τ > 0, a number or [...].
        mask: [...] bool; rows where it is False give 0 and receive a gradient of 0.
        support: the ids that the sampler kept, one row per token of the leading dimensions.
        extras: also return collision, collision_logp, varentropy and max_logp.

    Returns:
        TokenStats of [...] tensors in nats, float32 (float64 for float64 logits).
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    z = logits.to(dtype)
    tau = torch.as_tensor(temperature, dtype=dtype, device=z.device).expand(tokens.shape)
    if mask is not None:
        # Masked rows may hold anything, including NaN: replace them before any arithmetic, so that
        # 0·NaN cannot occur in the backward pass either.
        z = torch.where(mask[..., None], z, 0.0)
        tokens = torch.where(mask, tokens, 0)
        tau = torch.where(mask, tau, 1.0)
    fields = _statistics(z, tokens, tau, extras)
    if support is not None:
        kept = kept_mask(support, tokens, z.shape[-1], mask)
        restricted = _statistics(torch.where(kept, z, -torch.inf), tokens, tau, extras=False)
        fields |= {f"support_{name}": restricted[name] for name in ("logp", "entropy")}
    if mask is not None:
        fields = {name: torch.where(mask, value, 0.0) for name, value in fields.items()}
    return TokenStats(**fields)


def kept_mask(support: Support, tokens: Tensor, vocab: int, mask: Tensor | None = None) -> Tensor:
    """bool [..., V]: the ids that the support lists, and the tokens. Masked rows are ignored."""
    kept = torch.zeros(tokens.numel(), vocab, dtype=torch.bool, device=tokens.device)
    for row, (begin, end) in enumerate(support.offsets.unfold(0, 2, 1).tolist()):
        if mask is None or mask.flatten()[row]:
            kept[row, support.ids[begin:end].long()] = True
    return kept.view(*tokens.shape, vocab).scatter(-1, tokens[..., None], True)


def _statistics(z: Tensor, tokens: Tensor, tau: Tensor, extras: bool) -> dict[str, Tensor]:
    row_max = z.detach().amax(-1, keepdim=True)
    # −inf is an impossible token, unless the whole row is −inf: then the result below is NaN.
    dead = (z == -torch.inf) & (row_max > -torch.inf)
    t = torch.where(dead, 0.0, (torch.where(dead, 0.0, z) - row_max) / tau[..., None])
    e = torch.where(dead, 0.0, t.exp())
    total = e.sum(-1, keepdim=True)
    log_sum = total.log()
    # Where ln p is below −1e4, p is 0 in any dtype; bounded there, neither ln p nor its square
    # overflows in a product with p (finfo.min as a mask would).
    log_p = t.clamp(min=-1e4) - log_sum
    p = e / total

    picked = (t - log_sum).gather(-1, tokens[..., None]).squeeze(-1)
    picked_dead = dead.gather(-1, tokens[..., None]).squeeze(-1)
    logp = torch.where(picked_dead, -log_sum.squeeze(-1) - torch.inf, picked)
    entropy = -torch.where(dead, 0.0, p * log_p).sum(-1)
    lse = (row_max / tau[..., None] + log_sum).squeeze(-1)
    fields = {"logp": logp, "entropy": entropy, "lse": lse}

    if extras:
        with torch.no_grad():
            live_log_p = torch.where(dead, 0.0, log_p)
            fields["collision"] = (p * p).sum(-1)
            fields["collision_logp"] = (p * p * live_log_p).sum(-1)
            fields["varentropy"] = (p * (live_log_p + entropy[..., None]).square()).sum(-1)
            fields["max_logp"] = -log_sum.squeeze(-1)
    return fields
