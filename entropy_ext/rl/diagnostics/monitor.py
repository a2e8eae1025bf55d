"""Entropy and related quantities to monitor during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext.rl.checks import check_bound
from entropy_ext.rl.diagnostics.pass_at_k import pass_at_k
from entropy_ext.rl.groups import Groups
from entropy_ext.rl.rollout import Rollout
from entropy_ext.rl.statistics import gathered, masked_mean, summed, token_covariance
from entropy_ext.token_selection import entropy_change
from entropy_ext.token_stats import TokenStats

__all__ = ["EntropyMonitor"]


class EntropyMonitor:
    """The numbers of each step as a flat dict of 0-d tensors, without waiting for the device.

    - entropy/mean, /p20, /p50, /p80, and /positive and /negative, the means over tokens with A > 0
      and A < 0, in nats
    - covariance/mean, and /top, its mean over the top_fraction of tokens with the greatest
      covariance, in nats
    - entropy_change/predicted: mean exact first-order change per unit step on the scaled logits
      (with stats that carry the extras); entropy_change/measured: mean entropy minus that of the
      step before; nats
    - clip/low and clip/high: fractions of tokens (if given the metrics of losses that clip)
    - kl/old, and kl/reference (with ref_logp): means of e⁻ᵈ − 1 + d, d = logp − the other's; nats
    - pass/1 and pass/k, means over prompts, and ceiling, the b − a of R = b − a·exp(H) fitted to
      the steps so far, R being pass/1 (with correct)
    - groups/zero_advantage: fraction of groups whose advantages are all 0

    A mean over nothing, such as over positive tokens if there are none, repeats the value of the
    previous step, 0 at first. With a group, all numbers are over the tokens and prompts of all its
    ranks, and are the same on each of them; all responses to a prompt must be on one rank.

    Args:
        k: the k of pass/k; groups with fewer responses are left out of it.
        top_fraction: fraction of tokens for covariance/top, at least one token; 2e-4 in the Entropy
            Mechanism paper (arXiv 2505.22617).
        group: ranks that hold the parts of one step; all of them must call `update`, with the same
            optional fields. The host then waits for the sizes of the parts.
    """

    def __init__(
        self,
        *,
        k: int = 8,
        top_fraction: float = 2e-4,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        check_bound("k", k, at_least=1, integer=True)
        check_bound("top_fraction", top_fraction, at_least=0, at_most=1)
        self.k = k
        self.top_fraction = top_fraction
        self.group = group
        self._last: dict[str, Tensor] = {}
        self._line: Tensor | None = None
        """[5] float64: steps, means of x = exp(H) and R, Σ(x − mean)², Σ(x − mean)(R − mean)"""

    @torch.no_grad()
    def update(
        self,
        stats: TokenStats,
        rollout: Rollout,
        advantages: Tensor,
        metrics: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The numbers of one step.

        Args:
            stats: [B, T] each, of the policy before or at this step.
            rollout: what was sampled.
            advantages: [B, T].
            metrics: sums over tokens as the token losses return them, added over micro-batches.

        Returns:
            Name → 0-d floating tensor.
        """
        mask = rollout.mask & torch.isfinite(stats.logp) & torch.isfinite(stats.entropy)
        seen = {
            **self._of_entropy(stats.entropy, advantages, mask),
            **self._of_covariance(stats.logp, advantages, mask),
            "groups/zero_advantage": self._share_of_groups(
                rollout.prompt, ~(rollout.mask & (advantages != 0)).any(-1)
            ),
            "kl/old": self._mean_k3(stats.logp, rollout.old_logp, mask),
        }
        if stats.collision is not None:
            change = entropy_change(stats, advantages.to(stats.logp.dtype))
            seen["entropy_change/predicted"] = self._mean(change, mask & torch.isfinite(change))
        if rollout.ref_logp is not None:
            seen["kl/reference"] = self._mean_k3(stats.logp, rollout.ref_logp, mask)
        if metrics is not None and "clip_low" in metrics:
            counts = [metrics[name].double() for name in ("clip_low", "clip_high", "tokens")]
            low, high, tokens = summed(torch.stack(counts), group=self.group)
            seen.update({"clip/low": low / tokens, "clip/high": high / tokens})
        if rollout.correct is not None:
            seen.update(self._of_success(rollout.prompt, rollout.correct, seen["entropy/mean"]))
        return self._remembered(seen)

    @staticmethod
    def floats(values: Mapping[str, Tensor]) -> dict[str, float]:
        """The numbers as Python floats, copied to the host at once, for a run tracker."""
        stacked = torch.stack([value.double() for value in values.values()])
        return dict(zip(values, stacked.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The last numbers, and the sums behind the ceiling."""
        return {"last": dict(self._last), "line": self._line}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._last, self._line = dict(state["last"]), state["line"]

    def _of_entropy(self, entropy: Tensor, advantages: Tensor, mask: Tensor) -> dict[str, Tensor]:
        mean = self._mean(entropy, mask)
        before = self._last.get("entropy/mean", mean)
        known = torch.where(mask, entropy, torch.inf).flatten()
        ordered = gathered(known, fill=torch.inf, group=self.group).sort().values
        count = summed(mask.sum(), group=self.group)
        return {
            "entropy/mean": mean,
            **{f"entropy/p{q}": _quantile(ordered, count, q / 100) for q in (20, 50, 80)},
            "entropy/positive": self._mean(entropy, mask & (advantages > 0)),
            "entropy/negative": self._mean(entropy, mask & (advantages < 0)),
            "entropy_change/measured": mean - before,
        }

    def _of_covariance(self, logp: Tensor, advantages: Tensor, mask: Tensor) -> dict[str, Tensor]:
        covariance = token_covariance(logp, advantages, mask, group=self.group)
        known = torch.where(mask, covariance, -torch.inf).flatten()
        ordered = gathered(known, fill=-torch.inf, group=self.group).sort(descending=True).values
        count = (summed(mask.sum(), group=self.group) * self.top_fraction).floor().clamp(min=1)
        top = torch.arange(len(ordered), device=ordered.device) < count
        return {
            "covariance/mean": self._mean(covariance, mask),
            "covariance/top": torch.where(top, ordered, 0.0).sum() / count,
        }

    def _of_success(self, prompt: Tensor, correct: Tensor, entropy: Tensor) -> dict[str, Tensor]:
        groups = Groups(prompt)
        right = groups.sum(correct.double())
        estimate = pass_at_k(groups.size, right.long(), self.k)
        enough = groups.size >= self.k
        # Each response gets an equal share of its prompt, so that the sums are over prompts.
        share = 1 / groups.size.double()
        numbers = (right * share, 1.0, torch.where(enough, estimate, 0.0), enough)
        sums = torch.stack([(number * share).sum() for number in numbers])
        passed, prompts, passed_k, prompts_k = summed(sums, group=self.group)
        first = passed / prompts
        self._line = _with_point(self._line, entropy.double().exp(), first)
        _, mean_x, mean_r, squares, products = self._line.unbind()
        slope = torch.where(squares > 0, products / squares, 0.0)
        ceiling = mean_r + slope * (1 - mean_x)
        return {"pass/1": first, "pass/k": passed_k / prompts_k, "ceiling": ceiling}

    def _mean(self, values: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(values, mask, group=self.group)

    def _mean_k3(self, logp: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        difference = (other - logp).clamp(-20, 20)
        return self._mean(difference.expm1() - difference, mask & torch.isfinite(other))

    def _share_of_groups(self, prompt: Tensor, holds: Tensor) -> Tensor:
        share = 1 / Groups(prompt).size.double()
        sums = summed(torch.stack([(holds * share).sum(), share.sum()]), group=self.group)
        return sums[0] / sums[1]

    def _remembered(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = {
            name: torch.where(
                torch.isfinite(value), value, self._last.get(name, torch.zeros_like(value))
            )
            for name, value in seen.items()
        }
        self._last = {**self._last, **held}
        return held


def _with_point(line: Tensor | None, x: Tensor, r: Tensor) -> Tensor:
    """The moments with one more point; unchanged if the point is not finite."""
    if line is None:
        line = torch.zeros(5, dtype=torch.float64, device=x.device)
    count, mean_x, mean_r, squares, products = line.unbind()
    count = count + 1
    step = x - mean_x
    new_x, new_r = mean_x + step / count, mean_r + (r - mean_r) / count
    squares, products = squares + step * (x - new_x), products + step * (r - new_r)
    moved = torch.stack([count, new_x, new_r, squares, products])
    return torch.where(torch.isfinite(x) & torch.isfinite(r), moved, line)


def _quantile(ordered: Tensor, count: Tensor, q: float) -> Tensor:
    """Quantile of the first `count` ordered values, linear between them; infinite for none."""
    if ordered.numel() == 0:
        return ordered.sum() + torch.inf
    at = q * (count.double() - 1).clamp(min=0)
    low = at.floor()
    below, above = (
        ordered.gather(0, index.long().view(1)).squeeze(0) for index in (low, at.ceil())
    )
    return below + (above - below) * (at - low).to(ordered.dtype)
