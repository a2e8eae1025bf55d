"""Experiments in worker processes: one thread each, results stored as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sim.lab.experiment import Experiment, Profile
from sim.lab.experiments import EXPERIMENTS
from sim.lab.store import Corrupt, Result, Store, key_of

__all__ = ["run"]


def run(
    experiments: Sequence[Experiment],
    store: Store,
    console: Console,
    *,
    jobs: int,
    stale: bool = False,
    anew: bool = False,
) -> tuple[dict[str, Result], dict[str, str]]:
    """The results of all the experiments, those computed that are not in the store.

    Interrupting raises KeyboardInterrupt; what was finished is in the store.

    Args:
        experiments: which.
        store: where results are and go.
        console: for progress and complaints.
        jobs: worker processes.
        stale: take results of older code, too.
        anew: compute all, whatever is in the store.

    Returns:
        name → result, and name → traceback of those that failed.
    """
    results: dict[str, Result] = {}
    # Before the workers load the code: what is edited while they run did not make the results.
    keys = {experiment.name: key_of(experiment, store.profile) for experiment in experiments}
    for experiment in () if anew else experiments:
        try:
            found = store.load(experiment.name)
        except Corrupt as error:
            console.print(f"[bold red]corrupt, computed anew:[/] {error}", highlight=False)
            continue
        if found is None:
            continue
        current = found.key == keys[experiment.name]
        if current or (stale and _fits(experiment, found)):
            results[experiment.name] = found
    missing = [experiment for experiment in experiments if experiment.name not in results]
    failures: dict[str, str] = {}
    if not missing:
        return results, failures
    # Set here for the workers' libraries, which read it when they load: threads that spin for work
    # between a thousand small operations would fight for the cores.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
    )
    executor = ProcessPoolExecutor(
        max_workers=max(1, min(jobs, len(missing))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialise,
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("experiments", total=len(experiments), last="")
        progress.update(bar, completed=len(results))
        futures: dict[Future[Result | str], Experiment] = {
            executor.submit(_work, experiment.name, store.profile): experiment
            for experiment in missing
        }
        try:
            for future in as_completed(futures):
                experiment, outcome = futures[future], future.result()
                if isinstance(outcome, str):
                    failures[experiment.name] = outcome
                    progress.console.print(f"[bold red]{experiment.name} failed[/]\n{outcome}")
                else:
                    outcome = replace(outcome, key=keys[experiment.name])
                    results[experiment.name] = store.save(experiment, outcome)
                last = f"{experiment.name} {getattr(outcome, 'seconds', 0):.0f} s"
                progress.update(bar, advance=1, last=last)
        except KeyboardInterrupt:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    executor.shutdown()
    return results, failures


def _fits(experiment: Experiment, found: Result) -> bool:
    """Whether the experiment can still read what older code of it wrote."""
    try:
        experiment.findings(found.tables)
    except (KeyError, ValueError):
        return False
    return True


def _initialise() -> None:
    """The parent alone answers Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _work(name: str, profile: Profile) -> Result | str:
    """The result of an experiment, or the traceback of its failure."""
    started = time.process_time()
    try:
        tables = EXPERIMENTS[name].measure(profile)
    except Exception:
        return traceback.format_exc()
    return Result(tables, time.process_time() - started)
