"""TRL's GRPOTrainer with entropy_ext's token statistics and nothing else changed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.integrations.trl.head import Scoring, score_tokens
from entropy_ext.integrations.trl.installed import TRLTrainer

__all__ = ["ScoringTrainer"]

_MODEL_INPUTS = frozenset(
    inspect.signature(TRLTrainer._get_per_token_logps_and_entropies).parameters
)


class ScoringTrainer(TRLTrainer):
    """Scores tokens with entropy_ext.

    Args:
        positional, options: as in TRL.
        chunked_head: see `GRPOTrainer`.
    """

    def __init__(self, *positional: Any, chunked_head: bool, **options: Any) -> None:
        super().__init__(*positional, **options)
        self._policy_scoring = self._scored_here(self.model, chunked_head)
        self._scorings = [self._policy_scoring]
        if self.ref_model is not None:
            self._scorings.append(self._scored_here(self.ref_model, chunked_head))

    def _scored_here(self, model: Any, chunked: bool) -> Scoring:
        refused = {
            "a router's loss needs the model's own forward pass": self.aux_loss_enabled,
            "FSDP shards the output layer": self.is_fsdp_enabled,
            "DeepSpeed shards the output layer": self.is_deepspeed_enabled,
        }
        for reason, holds in refused.items():
            if chunked and holds:
                raise ValueError(f"chunked_head: {reason}: pass chunked_head=False")
        scoring = Scoring(
            temperature=self.temperature,
            chunked=chunked,
            float32_head=self.args.cast_lm_head_to_fp32,
        )
        inner = self.accelerator.unwrap_model(model)
        score_tokens(inner.get_base_model() if hasattr(inner, "peft_config") else inner, scoring)
        return scoring

    @contextmanager
    def _seen(self) -> Iterator[list[TokenStats]]:
        """A context that collects the statistics of the policy's forward passes."""
        seen: list[TokenStats] = []
        self._policy_scoring.seen = seen
        try:
            yield seen
        finally:
            self._policy_scoring.seen = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: Any,
        *positional: Any,
        **options: Any,
    ) -> Any:
        for scoring in self._scorings:
            scoring.columns = logits_to_keep
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *positional, **options
        )

    def _score(
        self, model: Any, batch: dict[str, Any], at_once: int, *, aux_loss: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probability and entropy [b, T] of a batch's completions, and the router's loss."""
        prompts, completions = batch["prompt_ids"], batch["completion_ids"]
        scores: tuple[Tensor, Tensor, Tensor | None] = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([prompts, completions], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            completions.shape[1],
            batch_size=at_once,
            compute_entropy=True,
            compute_aux_loss=aux_loss,
            **{name: value for name, value in batch.items() if name in _MODEL_INPUTS},
        )
        return scores
