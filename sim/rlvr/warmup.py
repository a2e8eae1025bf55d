"""Supervised training until the model is right now and then: the policy that RL starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaForCausalLM

from entropy_ext.recipes import Sampling
from sim.rlvr.evaluate import accuracy
from sim.rlvr.model import response_stats
from sim.rlvr.task import ChainSum

__all__ = ["unfinished", "warm_up"]


def unfinished(state: dict[str, Any]) -> bool:
    """Whether a saved state is of a warm-up under way; of one that ended only the model is kept."""
    return "optimizer" in state


def warm_up(
    model: LlamaForCausalLM,
    task: ChainSum,
    held_out: ChainSum,
    *,
    target: float,
    max_steps: int,
    max_length: int,
    seed: int,
    batch: int = 256,
    learning_rate: float = 3e-3,
    check_every: int = 25,
    report: Callable[[int, float], None] | None = None,
    begun: dict[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
) -> float:
    """Minimise −mean ln p(solution token) until sampled answers reach the target accuracy.

    Args:
        model: trained in place.
        task: problems to train on.
        held_out: problems to measure accuracy on.
        target: accuracy at which to stop, of answers sampled at temperature 1.
        max_steps: stop there at the latest.
        max_length: longest answer sampled to measure accuracy, tokens.
        seed: of the order of problems and of the accuracy samples.
        batch: problems per step.
        learning_rate: of AdamW, reached after 20 steps.
        check_every: steps between two measurements.
        report: called with the step and the accuracy after each measurement.
        begun: what `save` was last given; the same steps follow as if nothing had come between.
        save: called with all that going on takes, after each measurement but the last.

    Returns:
        The last measured accuracy.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    reached, done = 0.0, 0
    if begun is not None:
        model.load_state_dict(begun["model"])
        optimizer.load_state_dict(begun["optimizer"])
        generator.set_state(begun["generator"])
        done = begun["step"]
    for step in range(done + 1, max_steps + 1):
        for param_group in optimizer.param_groups:
            param_group["lr"] = learning_rate * min(1.0, step / 20)
        rows = torch.randint(len(task), (batch,), generator=generator)
        stats = response_stats(
            model,
            task.prompt_tokens[rows],
            task.prompt_mask[rows],
            task.solution_tokens[rows],
            task.solution_mask[rows],
        )
        loss = -stats.logp.sum() / task.solution_mask[rows].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % check_every == 0 or step == max_steps:
            reached = accuracy(
                model, held_out, Sampling(), generator=generator, max_length=max_length
            )
            if report is not None:
                report(step, reached)
            if reached >= target or step == max_steps:
                break
            if save is not None:
                save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "generator": generator.get_state(),
                        "step": step,
                    }
                )
    return reached
