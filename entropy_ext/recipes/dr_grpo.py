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
    response is the sum over its tokens divided by the longest allowed length, a constant, instead
    of its own length.

    "Understanding R1-Zero-Like Training: A Critical Perspective" (arXiv 2503.20783). Figures there:
    128 prompts × 8, length limit 3000. That a rollout makes 8 optimizer steps is our reading of the
    released command line. The released code gives responses that the length limit cut off reward 0;
    here that is the checker's to decide.

    Args:
        options: the arguments of `MeanBaseline`.
    """

    name: ClassVar[str] = "dr_grpo"
    paper: ClassVar[str] = "arXiv 2503.20783"
    aggregation: Aggregation = "seq-mean-token-sum-norm"
    minibatches: int = 8
    sampling: Sampling = Sampling(group_size=8)
