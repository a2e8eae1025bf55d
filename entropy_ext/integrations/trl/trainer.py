"""TRL's GRPOTrainer with entropy_ext's token statistics and any recipe."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from entropy_ext import TokenStats
from entropy_ext.integrations.trl import checkpoint
from entropy_ext.integrations.trl.arguments import checked_config, configured_recipe
from entropy_ext.integrations.trl.collect import joined
from entropy_ext.integrations.trl.installed import GRPOConfig, SyncRefModelCallback, TRLTrainer
from entropy_ext.integrations.trl.learner import Learner
from entropy_ext.integrations.trl.metrics import update_metrics
from entropy_ext.integrations.trl.needs import check_supplied, supplied
from entropy_ext.integrations.trl.rewarded import Rewarded
from entropy_ext.integrations.trl.rollouts import response_mask, rollout_of
from entropy_ext.integrations.trl.scoring import ScoringTrainer
from entropy_ext.recipes import Recipe
from entropy_ext.rl import Rollout
from entropy_ext.rl.checks import check_flag

__all__ = ["GRPOTrainer"]

_SIGNATURE = inspect.signature(TRLTrainer.__init__)


class GRPOTrainer(ScoringTrainer):
    """TRL's GRPOTrainer, which scores tokens with entropy_ext and learns with a recipe.

    Log-probability and entropy of each token come from one pass in float32, including the division
    by the temperature, which TRL does in the model's dtype. A logit of −inf is an impossible token
    and leaves values and gradients finite. Without a recipe, everything else is TRL's.

    With a recipe, the recipe shapes rewards, drops responses, and computes the advantages and the
    loss with its normaliser; TRL samples, steps and logs. One generation is one training step of
    the recipe, and one window of gradient accumulation is one optimizer step. Groups that the
    recipe drops are not replaced, so the mini-batch is smaller. A response that no reward function
    scored is removed from its group.

    Controllers are saved with each checkpoint and restored by resume_from_checkpoint. With several
    processes, groups, selections and controllers span all of them.

    Args:
        model, reward_funcs, args, positional, options: as in TRL.
        recipe: a name in entropy_ext.recipes.RECIPES, or a Recipe, which is copied; None: TRL's own
            loss.
        chunked_head: form the logits one chunk at a time, and again for the gradient, as TRL does;
            False stores the logits of the completions, which saves one matrix product.
        correct: function from the rewards [B, number of reward functions], NaN where a function
            gave none, to [B] bool; None: with a single reward function, whether the reward is
            positive.
        answers: function from the completions, as a reward function gets them, to the final answer
            of each, or None.

    Raises:
        ValueError: a field that the recipe needs and TRL does not supply; a setting that the recipe
            replaces or that contradicts it; an argument for recipes without a recipe.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *positional: Any,
        recipe: str | Recipe | None = None,
        chunked_head: bool = True,
        correct: Callable[[Tensor], Tensor] | None = None,
        answers: Callable[[list[Any]], Sequence[Hashable | None]] | None = None,
        **options: Any,
    ) -> None:
        check_flag("chunked_head", chunked_head)
        if recipe is None:
            for name, value in (("correct", correct), ("answers", answers)):
                if value is not None:
                    raise ValueError(
                        f"{name}: expected none without a recipe, which alone reads it"
                    )
        else:
            if args is None:
                raise ValueError("args: expected a GRPOConfig with a recipe, got None")
            recipe = configured_recipe(recipe, args)
            args = checked_config(recipe, args)
            # Before TRL loads models.
            given = _SIGNATURE.bind_partial(self, model, reward_funcs, args, *positional, **options)
            check_supplied(recipe, supplied(args, given.arguments, correct, answers))
        super().__init__(
            model, reward_funcs, args, *positional, chunked_head=chunked_head, **options
        )
        self._correct = correct
        self._answers = answers
        self.learner: Learner | None = None
        if recipe is not None:
            self._check_resets(recipe)
            self._policy_scoring.extras = recipe.extras
            self.learner = Learner(recipe, self.accelerator)
            self.add_callback(_StepEnd(self))

    def _check_resets(self, recipe: Recipe) -> None:
        resets = type(recipe).after_step is not Recipe.after_step
        if resets and (self.is_fsdp_enabled or self.is_deepspeed_enabled or self.ref_model is None):
            raise ValueError(
                f"recipe {recipe.name} makes the policy its reference, for which every process "
                "must have a whole reference model: not an adapter's base, FSDP or DeepSpeed"
            )

    @property
    def _generation_steps(self) -> int:
        """Micro-batches from one generation to the next."""
        return int(self.args.steps_per_generation * self.num_iterations)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.learner is None:
            return rewards
        start = self.accelerator.process_index * len(prompts)
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        self._rewarded = Rewarded(
            rewards=rewards[start : start + len(prompts)],
            weights=self.reward_weights.to(rewards.device),
            truncated=torch.tensor(
                [ids[-1] not in ends for ids in completion_ids_list], device=rewards.device
            ),
            answers=None if self._answers is None else list(self._answers(completions)),
            domain=[row.get("domain") for row in inputs],
        )
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        if self.learner is None:
            return super()._generate_and_score_completions(inputs)
        training = self.model.training
        args = self.args
        at_once = args.per_device_train_batch_size if training else args.per_device_eval_batch_size
        with self._seen() as seen:
            output = super()._generate_and_score_completions(inputs)
            if "old_per_token_logps" not in output:
                seen.clear()
                with torch.no_grad():
                    self._score(self.model, output, at_once)
            # The passes after the first ones are those of a reference that shares the policy's
            # weights.
            stats = joined(seen[: math.ceil(len(inputs) / at_once)])
        rollout = self._rollout(output, stats, training)
        collected = self.learner.collect(rollout, self._rewarded.scored, stats, training=training)
        self._metrics["train" if training else "eval"]["recipe/kept"].append(
            collected.metrics["kept"]
        )
        # Shows the recipe's advantages in TRL's table of completions. The table holds one
        # generation of training at most, which a batch of validation may exceed.
        shown = self._logs["advantages"]
        for _ in collected.advantages[: len(shown)]:
            shown.pop()
        shown.extend(collected.advantages)
        output["response"] = torch.arange(len(inputs), device=self.accelerator.device)
        return output

    def _rollout(self, output: dict[str, Any], stats: TokenStats, training: bool) -> Rollout:
        assert self.learner is not None
        needs = self.learner.recipe.needs
        optional = {
            "ref_logp": output.get("ref_per_token_logps"),
            "rollout_logp": output.get("sampling_per_token_logps"),
            **self._rewarded.fields(needs, self._correct),
        }
        return rollout_of(
            output,
            stats,
            rewards=self._rewarded.total,
            fields={name: value for name, value in optional.items() if name in needs},
            rank=self.accelerator.process_index,
            group_size=self.num_generations if training else self.num_generations_eval,
            max_length=self.max_completion_length,
            step=self.state.global_step
            * self.args.gradient_accumulation_steps
            // self._generation_steps,
            progress=min(1.0, self.state.global_step / max(1, self.state.max_steps)),
        )

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if self.learner is None:
            return super()._compute_loss(model, inputs)
        training = self.model.training
        response = inputs["response"]
        with self._seen() as seen:
            logp, entropy, aux_loss = self._score(
                model, inputs, len(response), aux_loss=self.aux_loss_enabled
            )
            # The statistics with a gradient are those that the wrapped model returned.
            stats = joined(seen)._replace(logp=logp, entropy=entropy)
        position, together = 0, 1
        if training:
            together = self.args.gradient_accumulation_steps
            position = self._step % together
        if position == 0:
            self._prepare_plan(model, inputs, stats, training)
        loss, sums, plan = self.learner.loss(
            stats,
            response,
            slice(position * len(response), (position + 1) * len(response)),
            training=training,
            on_policy=not training or self._generation_steps == together,
            weights=inputs.get("importance_sampling_ratio"),
        )
        measured = update_metrics(sums, entropy, response_mask(inputs), plan, self.accelerator)
        if aux_loss is not None:
            loss = loss + self.router_aux_loss_coef * aux_loss / together
            measured["aux_loss"] = self.accelerator.gather(aux_loss.detach()).mean().item()
        for name, value in measured.items():
            self._metrics["train" if training else "eval"][name].append(value)
        return loss

    def _prepare_plan(
        self, model: Any, inputs: dict[str, Any], stats: TokenStats, training: bool
    ) -> None:
        assert self.learner is not None
        parts = [inputs]
        if training:
            first = self._step % self.args.steps_per_generation
            parts = self._buffered_inputs[first : first + self.args.gradient_accumulation_steps]
        response = torch.cat([part["response"] for part in parts])
        if self.learner.recipe.statistics == "minibatch" and len(parts) > 1:
            if self._step % self._generation_steps == 0:
                # There was no update since the responses were scored.
                stats = self.learner.recorded(response)
            else:
                with self._seen() as seen, torch.no_grad():
                    for part in parts:
                        self._score(model, part, len(part["response"]))
                    stats = joined(seen)
        self.learner.prepare(response, stats, training=training)

    def _finish_step(self) -> None:
        """After an optimizer step, ends the recipe's training step if this was its last."""
        if self.learner is None or self._step % self._generation_steps != 0:
            return
        actions = self.learner.finish()
        if actions.reset_reference:
            SyncRefModelCallback.sync_target_model(
                self.accelerator.unwrap_model(self.model), self.ref_model, 1.0
            )
            self.learner.reference_moved = True
        if actions.reset_optimizer:
            self.optimizer.state.clear()

    def log(self, logs: dict[str, float], *positional: Any, **options: Any) -> None:
        """TRL's log; also passes the mean reward on held-out prompts to the recipe."""
        super().log(logs, *positional, **options)
        if self.learner is not None and "eval_reward" in logs:
            self.learner.validated(logs["eval_reward"])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.learner is not None and self.args.should_save:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder = Path(self._get_output_dir(trial=trial)) / name
            checkpoint.save(folder, self.learner, self.ref_model)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint_folder)
        if self.learner is not None and checkpoint_folder is not None:
            checkpoint.load(Path(checkpoint_folder), self.learner, self.ref_model)


class _StepEnd(TrainerCallback):
    """Notifies the trainer of each optimizer step before it logs, validates and saves."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer._finish_step()
