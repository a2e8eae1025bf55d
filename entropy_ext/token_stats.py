"""token_stats: vocabulary logits → a few numbers per token, in one read of the logits."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from entropy_ext import ops
from entropy_ext.autograd import refuse_forward_mode
from entropy_ext.inplace import check_inplace, inplace_token_stats
from entropy_ext.inputs import check_flag, check_tensors, temperature_tensor
from entropy_ext.support import Support

__all__ = ["TokenStats", "token_stats"]


class TokenStats(NamedTuple):
    """Statistics of p = softmax(z/τ) per token, [...], float32 (float64 for float64 logits).

    Gradient flows to the logits through logp, entropy, lse, support_logp and support_entropy only.
    Fields that were not requested are None.
    """

    logp: Tensor
    """ln p[token], nats"""
    entropy: Tensor
    """−Σ p ln p, nats"""
    lse: Tensor
    """ln Σ exp(z/τ), nats"""
    collision: Tensor | None = None
    """Σ p²"""
    collision_logp: Tensor | None = None
    """Σ p² ln p, nats"""
    varentropy: Tensor | None = None
    """Var_p(ln p), nats²"""
    max_logp: Tensor | None = None
    """max ln p, nats"""
    support_logp: Tensor | None = None
    """ln q[token], nats, where q is p renormalised over the ids that the sampler kept"""
    support_entropy: Tensor | None = None
    """−Σ q ln q, nats"""


def token_stats(
    logits: Tensor,
    tokens: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    support: Support | None = None,
    extras: bool = False,
    inplace_backward: bool = False,
) -> TokenStats:
    """Log-probability, entropy and log-sum-exp of every token, in one read of the logits.

    With p = softmax(z/τ):  logp = ln p[token],  entropy = −Σⱼ pⱼ ln pⱼ,  lse = ln Σⱼ exp(zⱼ/τ).

    Gradient flows to logits through these three, in one read and one write:
    dzᵢ = (1/τ)[g_logp(1[i = token] − pᵢ) − g_entropy·pᵢ(ln pᵢ + H) + g_lse·pᵢ].
    The extras carry no gradient, nothing flows to temperature, and double backward raises.

    With a support, the same over K, the ids that the sampler kept and the token itself:
    support_logp = ln q[token],  support_entropy = −Σ_K qⱼ ln qⱼ,  qⱼ = pⱼ/Σ_K p.
    The sums run over K only, so that a small kept mass, exp(logp − support_logp), loses no
    precision. Their gradient is added to the others before rounding, for i in K:
    (1/τ)[g_support_logp(1[i = token] − qᵢ) − g_support_entropy·qᵢ(ln qᵢ + H_K)].
    The restricted logp is "keep sampling mask" of DeepSeek-V3.2 (arXiv 2512.02556).

    Logits of −inf are impossible tokens: they add 0 to every sum and receive a gradient of 0. The
    result for a row depends on that row alone, bit for bit (docs/numerics.md).

    Args:
        logits: [..., V] float32, bfloat16, float16 or float64, with any strides as long as the last
            dimension is contiguous. Never copied, and not modified unless inplace_backward is true.
        tokens: [...] int64 in [0, V).
        temperature: τ > 0, a number or a [...] tensor of float32 (float64 for float64 logits).
        mask: [...] bool; rows where it is False are not read, give 0 and receive a gradient of 0.
        support: the ids that the sampler kept, one row per token of the leading dimensions.
        extras: also return collision, collision_logp, varentropy and max_logp.
        inplace_backward: the backward pass writes the gradient over the logits, which saves memory.
            The logits must be contiguous and not a leaf. Their version counter is incremented, so
            that a backward pass that still needs their values raises an error; any other read of
            them after backward finds the gradient. Not with a support, and not under torch.compile.

    Returns:
        TokenStats of [...] tensors, float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: an argument of the wrong dtype, shape, device or layout; on the CPU
            also a token outside [0, V), a temperature that is not finite and above 1e-32 (float64:
            1e-290), or a malformed support in an unmasked row. On CUDA such a row becomes NaN,
            because a check would wait for the device.
    """
    check_tensors(logits=logits, tokens=tokens, mask=mask)
    check_flag("extras", extras)
    check_flag("inplace_backward", inplace_backward)
    temperature = temperature_tensor(temperature, logits)
    if not isinstance(support, Support | None):
        raise TypeError(f"support: expected a Support, got {type(support).__name__}")
    refuse_forward_mode("token_stats", logits, temperature)
    if inplace_backward:
        check_inplace(logits, support is not None)
        logp, entropy, lse, extra = inplace_token_stats(logits, tokens, temperature, mask, extras)
        return TokenStats(logp, entropy, lse, *(extra.unbind() if extras else ()))
    offsets, ids = (None, None) if support is None else (support.offsets, support.ids)
    logp, entropy, lse, _, _, extra, support_stats = ops.token_stats_forward(
        logits, tokens, temperature, mask, extras, offsets, ids
    )
    return TokenStats(
        *(logp, entropy, lse),
        *(extra.detach().unbind() if extras else (None,) * 4),
        *(() if support is None else support_stats[:2].unbind()),
    )
