"""Every recipe on every task with every seed, one run after the other, each done once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import LlamaForCausalLM

from sim.rlvr import checkpoint
from sim.rlvr.compare_files import read, run_directory, start_file, write
from sim.rlvr.compare_measure import measure
from sim.rlvr.compare_tasks import TASKS, Problems
from sim.rlvr.interrupt import Interrupt, deferred_interrupt
from sim.rlvr.model import build_model
from sim.rlvr.options import configured
from sim.rlvr.progress import live_progress, measures, preparation
from sim.rlvr.train import train
from sim.rlvr.trainer import Trainer
from sim.rlvr.warmup import unfinished, warm_up

__all__ = ["Scale", "compare"]

# Sampled alike, so that entropies and rewards are of the same distribution.
ALIKE: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": None}


@dataclass(frozen=True)
class Scale:
    """How large every run of a comparison is; the same for all recipes."""

    steps: int = 40
    """training steps"""
    prompts: int = 16
    """groups learnt from in each step"""
    group_size: int = 8
    """responses to each prompt"""
    minibatches: int | None = 4
    """optimizer steps per training step and epoch; None: the recipe's own"""
    learning_rate: float = 2e-4
    """of AdamW"""
    hidden_size: int = 64
    """of the transformer"""
    layers: int = 2
    warmup_accuracy: float = 0.4
    """supervised training ends when this share of held-out answers is right"""
    warmup_steps: int = 400
    """or after this many steps"""
    problems: int = 64
    """held-out problems measured at the end"""
    samples: int = 16
    """responses to each of them"""
    shown: int = 6
    """responses shown token by token"""


def compare(
    names: Sequence[str],
    *,
    tasks: Sequence[str],
    seeds: int,
    out: Path,
    scale: Scale | None = None,
    options: Mapping[str, Any] | None = None,
    checkpoint_every: int = 10,
    console: Console | None = None,
    on_step: Callable[[str, str, int, dict[str, float]], None] | None = None,
) -> bool:
    """Train what is not trained yet; finished runs are not repeated, interrupted ones go on.

    A run's results are in out/<task>/seed<n>/<recipe>: steps.csv, checkpoint.pt, final.json.

    Args:
        names: recipes; "dapo+steer" composes two.
        tasks: names in TASKS.
        seeds: how many, from 0.
        out: directory.
        scale: of every run.
        options: arguments of every recipe named, beside those that all runs have alike.
        checkpoint_every: training steps between two checkpoints.
        console: where progress is shown; None shows none.
        on_step: called with task, recipe, seed and the row of each training step, those read back
            included.

    Returns:
        Whether every run is finished; else Ctrl-C was pressed.

    Raises:
        ValueError: an unknown recipe, option or task, one named twice, or a directory that holds
            runs with other settings.
    """
    scale = scale or Scale()
    _check_names("recipes", names)
    _check_names("tasks", tasks)
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"tasks: expected some of {', '.join(TASKS)}, got {', '.join(unknown)}")
    sizes = {"group_size": scale.group_size, "minibatches": scale.minibatches}
    if fixed := sorted((options or {}).keys() & (ALIKE | sizes).keys()):
        raise ValueError(
            f"options: {', '.join(fixed)}: the same in every run, set by `scale` or at temperature "
            "1 without a cut"
        )
    given = ALIKE | {k: v for k, v in sizes.items() if v is not None} | dict(options or {})
    for name in names:
        configured(name, given)
    with live_progress(console) as progress, deferred_interrupt() as interrupt:
        total = len(tasks) * seeds * len(names)
        bar = progress.add_task("runs", total=total, live="")
        current = progress.add_task("", total=scale.steps, live="")
        for task, seed in ((task, seed) for seed in range(seeds) for task in tasks):

            def say(text: str, where: str = f"{task}, seed {seed}") -> None:
                progress.update(current, live=f"{where}: {text}")

            runs = _Runs(task, seed, out, scale, given, checkpoint_every, interrupt, say)
            for name in names:
                progress.update(current, description=name[:10], completed=0, live="")

                def step_done(
                    row: dict[str, float], name: str = name, task: str = task, seed: int = seed
                ) -> None:
                    progress.update(current, completed=row["step"])
                    if on_step is not None:
                        on_step(task, name, seed, row)

                if not runs.finish(name, step_done):
                    return False
                progress.advance(bar)
        # What it says last is of no use when all is done, and wrong if nothing was left to do.
        progress.remove_task(current)
    return True


class _Runs:
    """All recipes on one task with one seed: they start from the same policy."""

    def __init__(
        self,
        task: str,
        seed: int,
        out: Path,
        scale: Scale,
        options: Mapping[str, Any],
        checkpoint_every: int,
        interrupt: Interrupt,
        say: Callable[[str], None],
    ) -> None:
        self.task = task
        self.seed = seed
        self.out = out
        self.scale = scale
        self.options = dict(options)
        self.checkpoint_every = checkpoint_every
        self.interrupt = interrupt
        self.say = say
        # The length of a run may be raised later: it is no part of what a checkpoint belongs to.
        sizes = {name: size for name, size in asdict(scale).items() if name != "steps"}
        self.settings = sizes | {"task": task, "seed": seed} | self.options
        self._problems: Problems | None = None
        self._start: dict[str, Any] | None = None

    def finish(self, name: str, on_step: Callable[[dict[str, float]], None]) -> bool:
        """Do what is left of one run; False if it was interrupted."""
        directory = run_directory(self.out, self.task, self.seed, name)
        label = {**self.settings, "steps": self.scale.steps}
        if read(directory / "final.json", label) is not None:
            return True
        if self.interrupt.requested:
            return False
        forking_above = self.start["forking_above"]
        model = self._warm_model()
        trainer = Trainer(
            model,
            self.problems.train,
            configured(name, self.options),
            steps=self.scale.steps,
            seed=self.seed,
            prompts=self.scale.prompts,
            learning_rate=self.scale.learning_rate,
            max_length=self._max_length,
            micro_batch=self.scale.prompts * self.scale.group_size,
        )

        def step_done(row: dict[str, float]) -> None:
            self.say(measures(row))
            on_step(row)

        train(
            trainer,
            self.problems.held_out,
            directory,
            settings=self.settings,
            seed=self.seed,
            evaluate_every=self.scale.steps,
            checkpoint_every=self.checkpoint_every,
            interrupt=self.interrupt,
            on_preparation=lambda left, row: self.say(preparation(left, row)),
            on_step=step_done,
        )
        if trainer.done < self.scale.steps:
            return False
        final = self._measured(model, forking_above)
        write(directory / "final.json", {"label": label, **final})
        return True

    @property
    def problems(self) -> Problems:
        """Drawn when they are first needed: finished runs need none."""
        if self._problems is None:
            self._problems = TASKS[self.task](self.seed)
        return self._problems

    @property
    def start(self) -> dict[str, Any]:
        """The measures of the policy that all recipes start from, warmed up if it is not there."""
        if self._start is None:
            path = start_file(self.out, self.task, self.seed)
            self._start = read(path, self.settings)
        if self._start is None:
            model = self._warm_model()
            self._start = {"label": self.settings, **self._measured(model, None)}
            write(path, self._start)
        return self._start

    @property
    def _max_length(self) -> int:
        return self.problems.train.solution_tokens.shape[1] + 3

    def _warm_model(self) -> LlamaForCausalLM:
        """A model at the end of the warm-up, which is done once."""
        model = build_model(
            vocab_size=-(-len(self.problems.train.tokenizer) // 8) * 8,
            seed=self.seed,
            hidden_size=self.scale.hidden_size,
            layers=self.scale.layers,
        )
        path = start_file(self.out, self.task, self.seed).with_name("warmup.pt")
        state = checkpoint.load(path, self.settings)
        if state is None or unfinished(state):
            warm_up(
                model,
                *self.problems,
                target=self.scale.warmup_accuracy,
                max_steps=self.scale.warmup_steps,
                max_length=self._max_length,
                seed=self.seed,
                batch=128,
                report=lambda step, reached: self.say(f"warm-up {step}, accuracy {reached:.3f}"),
                begun=state,
                save=lambda begun: checkpoint.save(path, self.settings, begun),
            )
            state = model.state_dict()
            checkpoint.save(path, self.settings, state)
        model.load_state_dict(state)
        return model

    def _measured(self, model: LlamaForCausalLM, forking_above: float | None) -> dict[str, Any]:
        return measure(
            model,
            self.problems.held_out,
            problems=self.scale.problems,
            samples=self.scale.samples,
            shown=self.scale.shown,
            max_length=self._max_length,
            seed=self.seed,
            forking_above=forking_above,
        )


def _check_names(argument: str, names: Sequence[str]) -> None:
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{argument}: expected distinct names, got {', '.join(names) or 'none'}")
