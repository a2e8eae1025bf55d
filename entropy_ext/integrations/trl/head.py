"""Makes a language model return token statistics in place of TRL's scores."""

from __future__ import annotations

import functools
import inspect
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from entropy_ext import TokenStats, linear_token_stats, token_stats
from entropy_ext.integrations.trl.installed import FusedCausalLMOutput

__all__ = ["Scoring", "score_tokens"]

# Settings by which architectures transform their logits after the output layer.
_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


class Scoring:
    """How the tokens of a model are scored, and a record of the results.

    Args:
        temperature: temperature of the policy.
        chunked: form the logits one chunk at a time, and again for the gradient; otherwise store
            all of them.
        float32_head: project in float32, whatever the model's dtype.
    """

    def __init__(self, *, temperature: float, chunked: bool, float32_head: bool) -> None:
        self.temperature = temperature
        self.chunked = chunked
        self.float32_head = float32_head
        self.extras = False
        """see `token_stats`"""
        self.columns: int | None = None
        """score only this many tokens at the end; None: all"""
        self.seen: list[TokenStats] | None = None
        """a list that receives the statistics of each forward pass, detached, [b, columns] each"""


def score_tokens(model: PreTrainedModel, scoring: Scoring) -> None:
    """Make model(labels=…, fused_lm_head=True) return entropy_ext's statistics.

    log_probs and entropy are those of softmax(logits/τ) at the labels, nats, float32, 0 where the
    label is −100. TRL's trainer calls its models in this way.

    Gradient flows to the model through both.

    Args:
        model: a model with TRL's fused head, not yet wrapped for training; changed in place.
        scoring: settings, read at each call.

    Raises:
        ValueError: scoring.chunked with a model that transforms the logits of its output layer.
    """
    if scoring.chunked:
        _check_linear(model)
    before = model.forward
    takes_columns = "logits_to_keep" in inspect.signature(type(model).forward).parameters

    # The signature of the class, because `generate` checks its arguments against it.
    @functools.wraps(type(model).forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            return before(*args, **({} if labels is None else {"labels": labels}), **kwargs)
        assert labels is not None
        columns = labels.shape[1] - 1 if scoring.columns is None else scoring.columns
        tokens = labels[:, -columns:]
        mask = tokens != -100
        tokens = torch.where(mask, tokens, 0)
        aux_loss = None
        if scoring.chunked:
            output = self.base_model(*args, use_cache=False, **kwargs)
            hidden = output.last_hidden_state[:, -columns - 1 : -1]
            stats = _projected(_output_layer(self), hidden, tokens, mask, scoring)
        else:
            if takes_columns:
                kwargs["logits_to_keep"] = columns + 1
            output = before(*args, use_cache=False, **kwargs)
            aux_loss = getattr(output, "aux_loss", None)
            stats = token_stats(
                output.logits[:, -columns - 1 : -1],
                tokens,
                temperature=scoring.temperature,
                mask=mask,
                extras=scoring.extras,
            )
        if scoring.seen is not None:
            scoring.seen.append(TokenStats._make(x if x is None else x.detach() for x in stats))
        return FusedCausalLMOutput(
            log_probs=stats.logp, entropy=stats.entropy, label_mask=mask, aux_loss=aux_loss
        )

    model.forward = MethodType(forward, model)


def _projected(
    head: Any, hidden: Tensor, tokens: Tensor, mask: Tensor, scoring: Scoring
) -> TokenStats:
    """Statistics of the output layer's logits, in the dtype in which the layer would form them."""
    device = hidden.device.type
    dtype = head.weight.dtype
    if scoring.float32_head:
        dtype = torch.float32
    elif torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return linear_token_stats(
        hidden.to(dtype),
        head.weight.to(dtype),
        tokens,
        bias=None if head.bias is None else head.bias.to(dtype),
        temperature=scoring.temperature,
        mask=mask,
        extras=scoring.extras,
    )


def _check_linear(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    for name in _TRANSFORMS:
        if (value := getattr(config, name, None)) not in (None, 1):
            raise ValueError(
                f"chunked_head: the logits of {type(model).__name__} are transformed after its "
                f"output layer ({name}={value}): pass chunked_head=False"
            )
    if not isinstance(head := _output_layer(model), torch.nn.Linear):
        raise ValueError(
            f"chunked_head: expected a linear output layer, got {type(head).__name__}: "
            "pass chunked_head=False"
        )


def _output_layer(model: PreTrainedModel) -> Any:
    # Looked up at each call, because wrappers replace it.
    return model.get_output_embeddings()  # type: ignore[no-untyped-call]
