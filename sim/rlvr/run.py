"""Warm up once, then train with every recipe asked for and draw them together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import LlamaForCausalLM

from entropy_ext.recipes import Recipe
from sim.rlvr import checkpoint
from sim.rlvr.interrupt import deferred_interrupt
from sim.rlvr.losses import check_chunked_head
from sim.rlvr.model import build_model
from sim.rlvr.options import configured
from sim.rlvr.plots import plot_comparison
from sim.rlvr.progress import live_progress, measures, preparation
from sim.rlvr.records import Records
from sim.rlvr.task import ChainSum
from sim.rlvr.train import train
from sim.rlvr.trainer import Trainer
from sim.rlvr.warmup import unfinished, warm_up

__all__ = ["DEMO_RECIPES", "DEMO_STEPS", "SAMPLER_DTYPES", "Result", "run"]

SAMPLER_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

DEMO_RECIPES = ("grpo", "dapo")
DEMO_STEPS = 40
"""A comparison of a few minutes on two cores, with `run`'s defaults for the rest."""


@dataclass(frozen=True)
class Result:
    """What a call of `run` leaves behind."""

    records: dict[str, Records]
    """recipe → its rows and its CSV file"""
    plot: Path | None
    """PNG of all recipes; None when not one step was done"""
    warmup_accuracy: float
    """share of right answers to held-out problems before reinforcement learning"""
    interrupted: bool
    """stopped by Ctrl-C before every recipe had its steps"""
    seconds: float


def run(
    names: Sequence[str] = ("grpo",),
    *,
    options: Mapping[str, Any] | None = None,
    out: Path,
    steps: int = 50,
    seed: int = 0,
    prompts: int = 64,
    group_size: int | None = None,
    minibatches: int | None = None,
    learning_rate: float = 1e-4,
    max_length: int | None = None,
    micro_batch: int = 512,
    survey_prompts: int = 2048,
    stored_prompts: int = 512,
    sampler_dtype: str = "float32",
    keep_routing: bool = False,
    chunked_head: bool = False,
    chunk_tokens: int | None = None,
    vocab_size: int | None = None,
    problems: int = 30_000,
    terms: int | None = None,
    digits: int | None = None,
    experts: int = 1,
    warmup_accuracy: float = 0.4,
    warmup_steps: int = 600,
    evaluate_every: int = 5,
    checkpoint_every: int = 10,
    warmup_file: Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
    on_step: Callable[[str, dict[str, float]], None] | None = None,
) -> Result:
    """Reinforcement learning with verifiable rewards, alike for all recipes but the recipe.

    A directory that holds part of this run is continued, to the bit; one that holds a run with
    other settings is refused. Group size, mini-batches, epochs and temperature are each recipe's
    own, so that one meant to be on policy is; `options` sets them alike for all.

    Args:
        names: recipes, see `entropy_ext.recipes.RECIPES`; "dapo+steer" composes two.
        options: arguments of every recipe named, or of its sampling.
        out: directory for checkpoints, CSV files and the plot.
        steps: training steps; a finished run goes on if this is raised.
        seed: of everything.
        prompts: groups learnt from in each step.
        group_size: responses to each prompt; None takes the recipe's own.
        minibatches: optimizer steps per training step and epoch; None takes the recipe's own.
        learning_rate: of AdamW.
        max_length: longest response, tokens; None allows twice the longest solution.
        micro_batch: most responses in one forward pass.
        survey_prompts: problems that a recipe with a curriculum chooses from.
        stored_prompts: problems that a recipe on stored data has responses to.
        sampler_dtype: precision in which the policy samples, "float32" or "bfloat16".
        keep_routing: replay, while training, the experts that were used while sampling.
        chunked_head: train and score without ever holding the logits of all tokens.
        chunk_tokens: with chunked_head: most tokens whose logits exist at once, no fewer than
            max_length; None takes what fits 256 MiB.
        vocab_size: of the model, at least the tokenizer's; the tokens beyond it stand for nothing.
        problems: draws from reasoning-gym, of which those seen before are dropped.
        terms: numbers per problem; None takes 2, where a solution is the answer alone, or 3 if a
            recipe needs the steps of a solution.
        digits: largest number of digits of each; None takes 2, or 1 where there are three or more
            numbers, whose sums a short warm-up would not get right often enough to learn from.
        experts: feed-forward networks per layer, each token through one of them.
        warmup_accuracy: supervised training ends when this share of held-out answers is right,
        warmup_steps: or after this many steps.
        evaluate_every: training steps between two measurements on held-out problems.
        checkpoint_every: training steps between two checkpoints.
        warmup_file: where the warm-up is kept; None takes out/warmup.pt.
        fresh: discard what the directory holds of these recipes and of the warm-up.
        console: where progress is shown; None shows none.
        on_step: called with the recipe and the row of each training step.

    Raises:
        ValueError: an unknown recipe, one named twice or one this task cannot supply; an unknown
            option; a vocabulary below the tokenizer's; routing kept where there are no experts; a
            chunked head that cannot be had; a directory that holds a run with other settings.
    """
    started = time.monotonic()
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"recipes: expected distinct names, got {', '.join(names) or 'none'}")
    sizes = {"group_size": group_size, "minibatches": minibatches}
    given = {name: size for name, size in sizes.items() if size is not None} | dict(options or {})
    chosen = [configured(name, given) for name in names]
    if keep_routing and experts == 1:
        raise ValueError("keep_routing: expected experts > 1, got 1")
    if sampler_dtype not in SAMPLER_DTYPES:
        raise ValueError(
            f"sampler_dtype: expected one of {', '.join(SAMPLER_DTYPES)}, got {sampler_dtype!r}"
        )
    if terms is None:
        terms = 3 if any("step_correct" in recipe.needs for recipe in chosen) else 2
    if digits is None:
        digits = 2 if terms == 2 else 1
    task = ChainSum(size=problems, seed=seed, terms=terms, digits=digits)
    held_out = ChainSum(size=problems, seed=seed, terms=terms, digits=digits, held_out=True)
    characters = len(task.tokenizer)
    # A multiple of 8, as trainers pad it.
    vocab_size = -(-characters // 8) * 8 if vocab_size is None else vocab_size
    if vocab_size < characters:
        raise ValueError(f"vocab_size: expected at least {characters}, got {vocab_size}")
    if max_length is None:
        max_length = 2 * task.solution_tokens.shape[1]
    for recipe in chosen:
        check_chunked_head(recipe, chunked_head, chunk_tokens, max_length)
    warmup_file = out / "warmup.pt" if warmup_file is None else warmup_file
    if fresh:
        for path in (warmup_file, *(out / name / "checkpoint.pt" for name in names)):
            path.unlink(missing_ok=True)

    warmup = {
        "seed": seed,
        "vocab_size": vocab_size,
        "problems": problems,
        "terms": terms,
        "digits": digits,
        "experts": experts,
        "warmup_length": 2 * task.solution_tokens.shape[1],
        "warmup_accuracy": warmup_accuracy,
        "warmup_steps": warmup_steps,
    }
    settings = warmup | {
        "prompts": prompts,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "micro_batch": micro_batch,
        "survey_prompts": survey_prompts,
        "stored_prompts": stored_prompts,
        "sampler_dtype": sampler_dtype,
        "keep_routing": keep_routing,
        "chunked_head": chunked_head,
        "chunk_tokens": chunk_tokens,
        **given,
    }
    records: dict[str, Records] = {}
    with live_progress(console) as progress:
        bar = progress.add_task("warm-up", total=warmup_steps, live="")

        def warmup_measured(step: int, reached: float) -> None:
            progress.update(bar, completed=step, live=f"accuracy {reached:.3f}")

        model, reached = _warm_model(warmup_file, warmup, task, held_out, warmup_measured)
        progress.update(bar, completed=warmup_steps, live=f"accuracy {reached:.3f}")
        bars = {name: progress.add_task(name, total=steps, live="") for name in names}
        with deferred_interrupt() as interrupt:
            for name, recipe in zip(names, chosen, strict=True):
                trainer = Trainer(
                    model(),
                    task,
                    recipe,
                    steps=steps,
                    seed=seed,
                    prompts=prompts,
                    learning_rate=learning_rate,
                    max_length=max_length,
                    micro_batch=micro_batch,
                    survey_prompts=survey_prompts,
                    stored_prompts=stored_prompts,
                    sampler_dtype=SAMPLER_DTYPES[sampler_dtype],
                    keep_routing=keep_routing,
                    chunked_head=chunked_head,
                    chunk_tokens=chunk_tokens,
                )

                def prepared(left: int, row: dict[str, float], name: str = name) -> None:
                    progress.update(bars[name], live=preparation(left, row))

                def step_done(row: dict[str, float], name: str = name) -> None:
                    progress.update(bars[name], completed=row["step"], live=measures(row))
                    if on_step is not None:
                        on_step(name, row)

                records[name] = train(
                    trainer,
                    held_out,
                    out / name,
                    settings=settings | _sizes(recipe),
                    seed=seed,
                    evaluate_every=evaluate_every,
                    checkpoint_every=checkpoint_every,
                    interrupt=interrupt,
                    on_preparation=prepared,
                    on_step=step_done,
                )
    begun = {name: rows for name, rows in records.items() if rows.rows}
    return Result(
        records=records,
        plot=plot_comparison(begun, reached, out / "training.png") if begun else None,
        warmup_accuracy=reached,
        interrupted=interrupt.requested,
        seconds=time.monotonic() - started,
    )


def _sizes(recipe: Recipe) -> dict[str, int]:
    """What a run's label holds of a recipe whether or not it was asked for."""
    return {"group_size": recipe.sampling.group_size, "minibatches": recipe.minibatches}


def _warm_model(
    path: Path,
    settings: dict[str, Any],
    task: ChainSum,
    held_out: ChainSum,
    report: Callable[[int, float], None],
) -> tuple[Callable[[], LlamaForCausalLM], float]:
    """A maker of models that stand where the warm-up ended, and the accuracy it reached."""
    state = checkpoint.load(path, settings)
    shape = {name: settings[name] for name in ("vocab_size", "seed", "experts")}
    model = build_model(**shape)
    if state is None or unfinished(state):
        reached = warm_up(
            model,
            task,
            held_out,
            target=settings["warmup_accuracy"],
            max_steps=settings["warmup_steps"],
            max_length=settings["warmup_length"],
            seed=settings["seed"],
            report=report,
            begun=state,
            save=lambda begun: checkpoint.save(path, settings, begun),
        )
        state = {"model": model.state_dict(), "accuracy": reached}
        checkpoint.save(path, settings, state)
    weights, reached = state["model"], state["accuracy"]

    def make() -> LlamaForCausalLM:
        fresh = build_model(**shape)
        fresh.load_state_dict(weights)
        return fresh

    return make, reached
