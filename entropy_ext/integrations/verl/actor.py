"""The actor hook: recipes that need entropies or the whole mini-batch, in verl's engines."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from entropy_ext import TokenStats
from entropy_ext.integrations.verl.batch import MiniBatch, mini_batch, responses
from entropy_ext.integrations.verl.coverage import check_covered
from entropy_ext.integrations.verl.losses import means, without_correct
from entropy_ext.integrations.verl.settings import check_settings
from entropy_ext.recipes import Plan, Recipe

__all__ = ["Actor"]

ROWS = "entropy_ext_rows"
"""the position of each sequence in its mini-batch, by which micro-batches find their part of the
plan"""


class Actor:
    """Extends `train_batch`, `save_checkpoint` and `load_checkpoint` of one engine of verl.

    If actor.policy_loss.loss_mode names a recipe that needs more than verl passes to a policy loss,
    an optimizer step starts with the recipe's `prepare` over the whole mini-batch on all ranks
    (after a forward pass, if the recipe needs statistics), and the loss of each micro-batch is the
    recipe's, with its part of the plan. Other loss functions are not changed. The state of the
    recipe is stored beside the engine's checkpoint.

    Args:
        engine: a BaseEngine.
        recipes: loss_mode → a new recipe, for those that need the hook.
        entropy_read: names of recipes whose loss uses the current entropy.
    """

    def __init__(
        self,
        engine: Any,
        recipes: Mapping[str, Callable[[], Recipe]],
        entropy_read: frozenset[str],
    ) -> None:
        self.engine = engine
        self.recipes = recipes
        self.entropy_read = entropy_read
        self.live: dict[str, Recipe] = {}
        self.waiting: dict[str, Any] = {}
        self.steps = 0
        self._train, self._save, self._load = (
            engine.train_batch,
            engine.save_checkpoint,
            engine.load_checkpoint,
        )
        engine.train_batch = self.train_batch
        engine.save_checkpoint = self.save_checkpoint
        engine.load_checkpoint = self.load_checkpoint

    def train_batch(self, data: Any, loss_function: Any) -> Any:
        """One optimizer step."""
        config = _actor_config(loss_function)
        mode = "" if config is None else config.policy_loss.get("loss_mode", "vanilla")
        if mode in self.recipes:
            loss_function = self._prepared(mode, data, config)
        output = self._train(data, loss_function)
        self.steps += bool(_plain(data, "update_lr_scheduler", False))
        return output

    def save_checkpoint(self, local_path: str, *args: Any, **options: Any) -> Any:
        """Saves the engine's checkpoint, then the state of the recipes."""
        saved = self._save(local_path, *args, **options)
        if self.live:
            state = {mode: recipe.state_dict() for mode, recipe in self.live.items()}
            torch.save({"steps": self.steps, "recipes": state}, _file(local_path))
        return saved

    def load_checkpoint(self, local_path: str, *args: Any, **options: Any) -> Any:
        """Loads the recipes' state, then the engine's, which may delete the directory."""
        if local_path is not None and (file := _found(local_path)) is not None:
            state = torch.load(file, weights_only=True)
            self.steps, self.waiting = state["steps"], state["recipes"]
            self.live = {}
        return self._load(local_path, *args, **options)

    def _recipe(self, mode: str) -> Recipe:
        if mode not in self.live:
            recipe = without_correct(self.recipes[mode]())
            check_covered(recipe)
            if mode in self.waiting:
                recipe.load_state_dict(self.waiting.pop(mode))
            self.live[mode] = recipe
        return self.live[mode]

    def _prepared(self, mode: str, data: Any, config: Any) -> Callable[..., Any]:
        """The loss of each micro-batch of this mini-batch."""
        recipe = self._recipe(mode)
        check_settings(recipe, config, config.loss_agg_mode)
        _check_no_second_term(recipe, config)
        data[ROWS] = torch.arange(len(data), device=data.device)
        batch = mini_batch(
            data,
            recipe,
            step=self.steps,
            progress=self._progress(recipe, config),
            max_length=config.loss_scale_factor,
            device=_device(),
        )
        stats = None
        if recipe.statistics == "minibatch":
            stats = self._statistics(data, batch.rollout.mask.shape[1])
        group = None
        if self.engine.get_data_parallel_size() > 1:
            group = self.engine.get_data_parallel_group()
        plan = recipe.prepare(stats, batch.rollout, batch.targets, group=group)
        reads_entropy = recipe.name in self.entropy_read or "entropy" in plan.coefficients
        _assign(data, calculate_entropy=reads_entropy)
        return functools.partial(_loss, recipe, batch, plan, reads_entropy)

    def _progress(self, recipe: Recipe, config: Any) -> float:
        """Fraction of training done; 0 if its length is unknown to verl and no recipe needs it."""
        total: int = config.optim.total_training_steps
        if total > 0:
            return min(1.0, self.steps / total)
        if getattr(recipe, "schedule", "entropy") != "entropy":
            raise ValueError(
                f"recipe {recipe.name} needs Rollout.progress: expected "
                f"actor.optim.total_training_steps above 0, got {total}"
            )
        return 0.0

    def _statistics(self, data: Any, width: int) -> TokenStats:
        """Statistics of the current policy over the mini-batch."""
        _assign(data, calculate_entropy=True)
        output = self.engine.infer_batch(data)["model_output"]
        if "log_probs" not in output or "entropy" not in output:
            raise RuntimeError(
                f"{type(self.engine).__name__}: expected log_probs and entropy of the mini-batch "
                f"on every rank, got {', '.join(output) or 'nothing'}: pipeline parallelism is "
                "not supported"
            )
        logp = responses(output["log_probs"], data, width)
        return TokenStats(logp, responses(output["entropy"], data, width), torch.zeros_like(logp))


def _loss(
    recipe: Recipe,
    batch: MiniBatch,
    plan: Plan,
    reads_entropy: bool,
    model_output: Mapping[str, Tensor],
    data: Any,
    dp_group: Any = None,
) -> tuple[Tensor, dict[str, Any]]:
    """The contribution of the micro-batch to the loss of the mini-batch, and metrics."""
    metric = importlib.import_module("verl.utils.metric").Metric
    width = batch.rollout.mask.shape[1]
    logp = responses(model_output["log_probs"], data, width)
    unknown = torch.full_like(logp, torch.nan)
    entropy = responses(model_output["entropy"], data, width) if reads_entropy else unknown
    rows = data[ROWS].to(logp.device)
    share, targets = plan.rows(rows), batch.targets.rows(rows)
    rollout = batch.rollout.rows(rows)
    if batch.importance is not None:
        share = share.weighted(batch.importance[rows])
    values, sums = recipe.token_loss(TokenStats(logp, entropy, unknown), rollout, targets, share)
    loss = share.aggregate(values)
    metrics = {name: metric("mean", value) for name, value in means(sums).items()}
    for name, coefficient in plan.coefficients.items():
        metrics[f"actor/coefficient_{name}"] = metric("mean", coefficient)
    metrics["actor/pg_loss"] = metric("sum", loss)
    return loss, metrics


def _device() -> Any:
    """The device of verl's micro-batches; the mini-batch itself may still be on the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    return importlib.import_module("verl.utils.device").get_device_id()


def _actor_config(loss_function: Any) -> Any:
    """The ActorConfig of verl's ppo_loss, or None for any other loss function."""
    losses = importlib.import_module("verl.workers.utils.losses")
    if (
        not isinstance(loss_function, functools.partial)
        or loss_function.func is not losses.ppo_loss
    ):
        return None
    return loss_function.keywords.get("config")


def _check_no_second_term(recipe: Recipe, config: Any) -> None:
    """Raises if verl's entropy bonus or KL penalty is on: the hook replaces all of verl's loss."""
    if config.entropy_coeff != 0:
        raise ValueError(
            f"actor.entropy_coeff: expected 0 with recipe {recipe.name}, got "
            f"{config.entropy_coeff}: register the recipe with entropy_coef instead"
        )
    if config.use_kl_loss and config.kl_loss_coef != 0:
        raise ValueError(
            f"actor.kl_loss_coef: expected 0 with recipe {recipe.name}, got "
            f"{config.kl_loss_coef}: register the recipe with kl_coef instead"
        )


def _assign(data: Any, **values: Any) -> None:
    importlib.import_module("verl.utils.tensordict_utils").assign_non_tensor(data, **values)


def _plain(data: Any, key: str, default: Any) -> Any:
    return importlib.import_module("verl.utils.tensordict_utils").get_non_tensor_data(
        data, key, default
    )


def _file(directory: str) -> Path:
    """The file of this rank; directories need not be shared between machines."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return Path(directory) / f"entropy_ext_rank_{rank}.pt"


def _found(directory: str) -> Path | None:
    """The file of this rank or, if there are more ranks than before, of another; all are equal."""
    own = _file(directory)
    return (
        own if own.exists() else next(iter(sorted(own.parent.glob("entropy_ext_rank_*.pt"))), None)
    )
