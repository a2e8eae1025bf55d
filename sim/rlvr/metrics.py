"""From sums over responses and tokens to the columns of a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from entropy_ext import TokenStats
from sim.rlvr.sampling import Samples

__all__ = ["critic_metrics", "sampled_metrics", "sampled_sums", "update_metrics"]


def sampled_sums(
    samples: Samples, correct: Tensor, stats: TokenStats, reference: TokenStats, *, stored: bool
) -> dict[str, float]:
    """Sums over the policy's own responses.

    Args:
        samples: of B responses.
        correct: [B] bool.
        stats: of the policy as it is now.
        reference: of the reference.
        stored: the responses are the first policy's, so that the divergence can be estimated in the
            other direction alone, from the reference to the policy.
    """
    own = ~samples.teacher
    mask = samples.mask & own[:, None]
    log_ratio = (reference.logp - stats.logp)[mask]
    if stored:
        log_ratio = -log_ratio
    return {
        "sampled": own.sum().item(),
        "tokens": mask.sum().item(),
        "right": (correct & own).sum().item(),
        "truncated": (samples.truncated & own).sum().item(),
        "entropy": stats.entropy[mask].sum().item(),
        "kl_reference": (log_ratio.expm1() - log_ratio).sum().item(),
    }


def sampled_metrics(draws: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Measures of all the responses sampled in a step, dropped groups included."""
    total: defaultdict[str, float] = defaultdict(float)
    for sums in draws:
        for name, value in sums.items():
            total[name] += value
    return {
        "reward": total["right"] / total["sampled"],
        "entropy": total["entropy"] / total["tokens"],
        "kl_reference": total["kl_reference"] / total["tokens"],
        "length": total["tokens"] / total["sampled"],
        "truncated": total["truncated"] / total["sampled"],
        "sampled": total["sampled"],
    }


def update_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Measures of the policy's optimizer steps, from sums over them.

    Means over steps of the loss and the norm, counts of tokens whose values are not finite, means
    over tokens of all else that the recipe's loss reported.
    """
    given: defaultdict[str, float] = defaultdict(float, sums)
    # Without anything to learn from there was no optimizer step, and the means are 0.
    updates, tokens = max(given["updates"], 1), max(given["tokens"], 1)
    clipped = given["clip_low"] + given["clip_high"] + given["dual_clip"]
    metrics = {
        "clip_fraction": clipped / tokens,
        "clip_low": given["clip_low"] / tokens,
        "clip_high": given["clip_high"] / tokens,
        "kl_old": given["kl_old"] / tokens,
        "nonfinite_logp": given["nonfinite_logp"],
        "loss": given["loss"] / updates,
        "gradient_norm": given["gradient_norm"] / updates,
        "updates": given["updates"],
    }
    done = metrics.keys() | {"tokens"}
    for name, value in sums.items():
        if name not in done:
            metrics[name] = value if name.startswith("nonfinite") else value / tokens
    return metrics


def critic_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """The same of the critic's optimizer steps, and how much of the returns' spread it explains."""
    given: defaultdict[str, float] = defaultdict(float, sums)
    updates, tokens = max(given["updates"], 1), max(given["value_tokens"], 1)
    metrics = {
        "value_loss": given["value_loss"] / updates,
        "value_gradient_norm": given["value_gradient_norm"] / updates,
    }
    if given["value_spread"] > 0:
        metrics["explained_variance"] = 1 - given["value_error"] / given["value_spread"]
    done = metrics.keys() | {"updates", "value_tokens", "value_spread"}
    for name, value in sums.items():
        if name not in done:
            metrics[name] = value / tokens
    return metrics
