"""Recipes in TRL's GRPOTrainer: a tiny model learns which digit is larger, on the CPU, offline.

pip install -c constraints.txt ".[sim,trl]"
python examples/grpo_trl.py --recipe grpo --recipe entropy_neutral

For the prompt "3 ? 7 =", a response is right if it begins with 7. The model has two layers and
random weights. The script prints and plots reward and entropy: plain GRPO learns fast and loses
all its entropy, entropy_neutral keeps it and learns more slowly.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import matplotlib
import torch
import typer
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig

from entropy_ext import recipes
from entropy_ext.integrations.trl import GRPOTrainer, refusals, requirements

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WORDS = ["<pad>", "<eos>", "?", "=", *"0123456789"]
GROUP, PROMPTS = 8, 16


def right_digit(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Reward: 1 where the response begins with the larger digit of its prompt, else 0."""
    rewards = []
    for prompt, completion in zip(prompts, completions, strict=True):
        digits = [word for word in prompt.split() if word.isdigit()]
        rewards.append(float(completion.split()[:1] == [max(digits)]))
    return rewards


def tokenizer() -> PreTrainedTokenizerFast:
    """Each digit or sign is one token."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def random_model(seed: int) -> Qwen2ForCausalLM:
    """Two layers, 0.1 million weights."""
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(WORDS),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=32,
            bos_token_id=None,
            eos_token_id=WORDS.index("<eos>"),
            pad_token_id=WORDS.index("<pad>"),
        )
    )


class Advance(TrainerCallback):
    """Advances a progress bar after each step."""

    def __init__(self, progress: Progress, name: str, steps: int) -> None:
        self.progress = progress
        self.task = progress.add_task(name, total=steps)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.progress.advance(self.task)


def unsupplied(name: str) -> str:
    """What the recipe needs and this example does not give it; empty for a recipe that runs."""
    recipe = recipes.get(name)
    needed = [f"{field} ({reason})" for field, reason in refusals(recipe)]
    # With a single reward function, a positive reward means a correct response.
    needed += [field for field, _ in requirements(recipe) if field != "correct"]
    return ", ".join(needed)


def learn(name: str, steps: int, seed: int, progress: Progress) -> list[dict[str, float]]:
    """Train with one recipe; returns TRL's log, one entry per step."""
    with TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            random_model(seed),
            right_digit,
            GRPOConfig(
                folder,
                num_generations=GROUP,
                per_device_train_batch_size=GROUP * PROMPTS,
                max_completion_length=2,
                max_steps=steps,
                learning_rate=2e-3,
                lr_scheduler_type="constant",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                seed=seed,
            ),
            Dataset.from_dict({"prompt": [f"{a} ? {b} =" for a in range(10) for b in range(10)]}),
            processing_class=tokenizer(),
            callbacks=[Advance(progress, name, steps)],
            recipe=name,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [row for row in trainer.state.log_history if "reward" in row]


def table(logs: dict[str, list[dict[str, float]]]) -> Table:
    """Reward and entropy at about ten steps."""
    shown = Table("step", *(f"{name}: {what}" for name in logs for what in ("reward", "entropy")))
    steps = min(len(log) for log in logs.values())
    for i in range(0, steps, max(1, steps // 10)):
        cells = [f"{log[i][what]:.2f}" for log in logs.values() for what in ("reward", "entropy")]
        shown.add_row(str(i + 1), *cells)
    return shown


def plot(logs: dict[str, list[dict[str, float]]], out: Path) -> None:
    """Reward and entropy over the steps, one line per recipe."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for what, label, axis in zip(
        ("reward", "entropy"), ("share right", "entropy, nats"), axes, strict=True
    ):
        for name, log in logs.items():
            axis.plot([row["step"] for row in log], [row[what] for row in log], label=name)
        axis.set(xlabel="optimizer step", ylabel=label, ylim=(0, None))
    axes[0].legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="a recipe; may be repeated (default: grpo and entropy_neutral)"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps per recipe")] = 120,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="where to write the plot")] = Path("runs/grpo_trl.png"),
) -> None:
    """Train with each recipe in turn, then compare reward and entropy."""
    names = list(dict.fromkeys(recipe or ["grpo", "entropy_neutral"]))
    if unknown := set(names) - set(recipes.RECIPES):
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}: not in {', '.join(recipes.RECIPES)}"
        )
    for name in names:
        if needed := unsupplied(name):
            raise typer.BadParameter(f"{name}: needs {needed}, which this example does not give it")
    # TRL uses names that transformers has deprecated.
    warnings.filterwarnings("ignore", category=FutureWarning)
    console = Console()
    logs: dict[str, list[dict[str, float]]] = {}
    try:
        with Progress(console=console) as progress:
            for name in names:
                logs[name] = learn(name, steps, seed, progress)
    except KeyboardInterrupt:
        console.print(f"Interrupted: {', '.join(logs) or 'no recipe'} finished.")
        if not logs:
            raise typer.Exit(130) from None
    console.print(table(logs))
    plot(logs, out)
    console.print(f"Plot: {out}")


if __name__ == "__main__":
    typer.run(main)
