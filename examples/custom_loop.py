"""A plain PyTorch training loop with any recipe by name, on the CPU in under two minutes.

A transformer of random weights is shown two digits and learns to answer with the larger one:

    python examples/custom_loop.py --recipe clip_cov --steps 60

Recipes that need a value head, a teacher's responses or judged steps are refused with a message.
Prompts are drawn uniformly even if the recipe has a curriculum, and groups that the recipe drops
are not replaced.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from entropy_ext import TokenStats, recipes, token_stats
from entropy_ext.recipes import Plan, Recipe, Targets
from entropy_ext.rl import Rollout

END, ASK = 10, 11  # tokens 0 to 9 are the digits
SUPPLIED = {"correct", "answers", "truncated", "rollout_logp", "old_entropy", "ref_logp"}
MAX_LENGTH = 4


def build_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=12,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=END,
        )
    )


def score(
    model: LlamaForCausalLM, recipe: Recipe, prompt: Tensor, rollout: Rollout, extras: bool = False
) -> TokenStats:
    """Log-probability and entropy of every response token, in one call instead of log_softmax,
    gather and a second pass for the entropy."""
    # Nothing is predicted from the last token.
    text = torch.cat([prompt, rollout.tokens[:, :-1]], dim=1)
    logits = model(text, logits_to_keep=rollout.tokens.shape[1]).logits
    temperature = recipe.sampling.temperature
    return token_stats(
        logits, rollout.tokens, temperature=temperature, mask=rollout.mask, extras=extras
    )


@torch.no_grad()
def collect(
    model: LlamaForCausalLM,
    reference: LlamaForCausalLM,
    recipe: Recipe,
    groups: int,
    step: int,
    steps: int,
) -> tuple[Tensor, Rollout]:
    """Sample a group of responses to each prompt, then check and score them."""
    size = recipe.sampling.group_size
    digits = torch.randint(0, 10, (groups, 2)).repeat_interleave(size, dim=0)
    prompt = torch.cat([digits, torch.full_like(digits[:, :1], ASK)], dim=1)
    text = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        temperature=recipe.sampling.temperature,
        max_new_tokens=MAX_LENGTH,
    )
    tokens = text[:, prompt.shape[1] :]
    ended = (tokens == END).cumsum(-1)
    mask = (ended - (tokens == END).long()) == 0
    right = tokens[:, 0] == digits.max(-1).values
    rollout = Rollout(
        tokens=tokens,
        mask=mask,
        rewards=right.float(),
        prompt=torch.arange(groups).repeat_interleave(size),
        old_logp=torch.zeros(tokens.shape),
        max_length=MAX_LENGTH,
        step=step,
        progress=step / steps,
        correct=right,
        answers=tokens[:, 0].tolist(),
        truncated=ended[:, -1] == 0,
    )
    before = score(model, recipe, prompt, rollout)
    rollout = rollout.replace(
        old_logp=before.logp,
        rollout_logp=before.logp,
        old_entropy=before.entropy,
        ref_logp=score(reference, recipe, prompt, rollout).logp,
    )
    return prompt, rollout


def update(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    prompt: Tensor,
    rollout: Rollout,
    targets: Targets,
    micro_batch: int,
) -> None:
    """One optimizer step on a mini-batch; the size of its micro-batches does not change it."""
    stats = None
    if recipe.statistics == "minibatch":
        with torch.no_grad():
            stats = score(model, recipe, prompt, rollout, recipe.extras)
    plan: Plan = recipe.prepare(stats, rollout, targets)
    optimizer.zero_grad()
    for rows in torch.arange(len(rollout.mask)).split(micro_batch):
        micro, share = rollout.rows(rows), plan.rows(rows)
        now = score(model, recipe, prompt[rows], micro)
        values, _ = recipe.token_loss(now, micro, targets.rows(rows), share)
        share.aggregate(values).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def train(name: str, *, steps: int, seed: int = 0, groups: int = 32) -> list[dict[str, float]]:
    """Train with a recipe; returns the reward and entropy of each step."""
    recipe = recipes.get(name)
    model = build_model(seed)
    reference = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    history = []
    for step in range(steps):
        prompt, rollout = collect(model, reference, recipe, groups, step, steps)
        # Measured before the recipe shapes rewards and drops responses.
        reward = rollout.rewards.mean().item()
        entropy = rollout.old_entropy[rollout.mask].mean().item()
        rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
        kept = recipe.keep(rollout)
        prompt, rollout = prompt[kept], rollout.rows(kept)
        if len(prompt) == 0:
            print(f"{step + 1:4d}  reward {reward:.3f}  {name} dropped every group, no update")
            continue
        targets = recipe.targets(rollout)
        parts = min(recipe.minibatches, len(prompt))
        for _ in range(recipe.epochs):
            for rows in torch.randperm(len(prompt)).tensor_split(parts):
                mini, aims = rollout.rows(rows), targets.rows(rows)
                update(model, optimizer, recipe, prompt[rows], mini, aims, micro_batch=128)
        measured = {"reward": reward, "entropy": entropy}
        actions = recipe.after_step(measured)
        if actions.reset_reference:
            reference.load_state_dict(model.state_dict())
        if actions.reset_optimizer:
            optimizer.state.clear()
        history.append(measured)
        print(f"{step + 1:4d}  reward {reward:.3f}  entropy {entropy:.3f} nats")
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--recipe",
        default="grpo",
        choices=list(recipes.RECIPES),
        metavar="NAME",
        help="any recipe of docs/methods.md (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=60, help="rollouts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.steps < 1:
        parser.error(f"--steps: expected at least 1, got {given.steps}")
    if missing := recipes.get(given.recipe).needs - SUPPLIED:
        parser.error(
            f"--recipe: {given.recipe} needs {', '.join(sorted(missing))}, "
            "which this example does not supply"
        )
    train(given.recipe, steps=given.steps, seed=given.seed)
