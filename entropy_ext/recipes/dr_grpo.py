"""Dr. GRPO: GRPO without its two divisions."""

from __future__ import annotations

from typing import ClassVar

from entropy_ext.recipes.mean_baseline import MeanBaseline
from entropy_ext.recipes.types import Sampling
from entropy_ext.rl.aggregate import Aggregation

__all__ = ["DrGrpo"]


class DrGrpo(MeanBaseline):
    """GRPO done right.

    Against GRPO: A = r − mean_g r, without division by the standard deviation; the loss of a
    response is the sum over its tokens, divided by the maximum length, a constant, instead of its
    own length.

    "Understanding R1-Zero-Like Training: A Critical Perspective" (arXiv 2503.20783). In the paper:
    128 prompts × 8, length limit 3000. The 8 optimizer steps per rollout are inferred from the
    released command line. The released code gives truncated responses a reward of 0; here that is
    left to the checker.

    Args:
        options: the arguments of `MeanBaseline`.
    """

    name: ClassVar[str] = "dr_grpo"
    paper: ClassVar[str] = "arXiv 2503.20783"
    aggregation: Aggregation = "seq-mean-token-sum-norm"
    minibatches: int = 8
    sampling: Sampling = Sampling(group_size=8)
