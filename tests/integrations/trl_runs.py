"""A real GRPOTrainer on the CPU: a model of two layers, a tokenizer made here, rewards by rule."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig

WORDS = 120
PROMPTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9", "w10", "w11 w12", "w13 w14 w15", "w16", "w17 w18"]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token to a word, padded on the left."""
    words = ["<pad>", "<eos>", *(f"w{i}" for i in range(WORDS))]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def tiny_model(seed: int = 0, **changes: Any) -> Qwen2ForCausalLM:
    """Random weights, wide enough apart that probabilities are not all alike."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        **{
            "vocab_size": WORDS + 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "initializer_range": 0.2,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
            **changes,
        }
    )
    return Qwen2ForCausalLM(config)


def early_words(completions: list[str], **_: Any) -> list[float]:
    """Reward: the share of a completion's words that are among the first half of them all."""
    shares = []
    for text in completions:
        words = [int(word[1:]) for word in text.split() if word.startswith("w")]
        shares.append(sum(word < WORDS // 2 for word in words) / max(len(words), 1))
    return shares


def first_word(completions: list[str], **_: Any) -> list[float]:
    """Reward: 1 where a completion begins with a word of the first half, else 0."""
    return [float(early_words([" ".join(text.split()[:1])])[0] > 0) for text in completions]


def settings(folder: Path, **changes: Any) -> GRPOConfig:
    """Two groups of four responses to a micro-batch, one optimizer step to a generation."""
    return GRPOConfig(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 6,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "temperature": 0.8,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            "seed": 3,
            **changes,
        }
    )


def trainer(
    kind: type, folder: Path, *, model: Any = None, reward: Any = None, **options: Any
) -> Any:
    """Of that class; `data` are its columns, `ours` further arguments, the rest is its config."""
    ours = options.pop("ours", {})
    data = options.pop("data", {"prompt": PROMPTS})
    with pytest.MonkeyPatch.context() as patch:
        # TRL reports each trainer that is made over the network, unless it is a test's.
        patch.setenv("CI", "1")
        return kind(
            tiny_model() if model is None else model,
            early_words if reward is None else reward,
            settings(folder, **options),
            Dataset.from_dict(data),
            processing_class=tokenizer(),
            **ours,
        )


def train(trained: Any, **options: Any) -> list[dict[str, float]]:
    """Run it; what it logged at each step."""
    with contextlib.redirect_stdout(io.StringIO()):
        trained.train(**options)
    return [row for row in trained.state.log_history if "loss" in row]


def batch_of(trained: Any) -> dict[str, Any]:
    """A generation of the trainer, as `_compute_loss` gets its first micro-batch."""
    trained.model.train()
    trained.current_gradient_accumulation_steps = trained.args.gradient_accumulation_steps
    rows = next(iter(trained.get_train_dataloader()))
    batch: dict[str, Any] = trained._prepare_inputs(rows)
    return batch


def gradients(trained: Any, batch: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch, and its gradient by every parameter."""
    trained.model.zero_grad()
    loss = trained._compute_loss(trained.model, batch)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in trained.model.parameters()]


def scripted(prompts: list[str], trained: Any) -> dict[str, Any]:
    """A rollout_func: the same responses to the same prompts, however many ranks share them.

    Lengths differ, some responses end and some are cut, and the sampler's own log-probabilities
    are a little off.
    """
    words = trained.processing_class
    group = trained.num_generations
    first = trained.accelerator.process_index * len(prompts)
    completions, logprobs = [], []
    for place, prompt in enumerate(prompts, first):
        seed = [*prompt.encode(), place % group, trained.state.global_step]
        generator = torch.Generator().manual_seed(hash(tuple(seed)) % 2**31)
        length = int(torch.randint(2, 7, (), generator=generator))
        ids = torch.randint(2, WORDS + 2, (length,), generator=generator).tolist()
        completions.append(ids if length == 6 else [*ids[:-1], words.eos_token_id])
        logprobs.append((-4.5 + 0.5 * torch.randn(length, generator=generator)).tolist())
    return {
        "prompt_ids": [words(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": completions,
        "logprobs": logprobs,
    }


def first_words(completions: list[str]) -> list[str | None]:
    """The answer of a completion: its first word."""
    return [next(iter(text.split()), None) for text in completions]
