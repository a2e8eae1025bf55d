"""The comparison as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.rlvr.compare import Scale
from sim.rlvr.compare_figures import curves, style_of
from sim.rlvr.compare_results import LAST, Estimate, Run, TaskResults, estimate
from sim.rlvr.compare_style import PAGE
from sim.rlvr.compare_tokens import legend, profile

__all__ = ["write_page"]


def write_page(
    path: Path, results: Sequence[TaskResults], *, names: Sequence[str], scale: Scale, command: str
) -> None:
    """Write curves, finals and token profiles of all finished runs.

    Args:
        path: the file.
        results: of each task.
        names: recipes, in the order of their colours.
        scale: of every run.
        command: that made them.
    """
    styles = {name: style_of(index) for index, name in enumerate(names)}
    runs = sum(len(each) for task in results for each in task.runs.values())
    own = scale.minibatches is None
    page = PAGE.format(
        runs=runs,
        steps=scale.steps,
        prompts=scale.prompts,
        group=scale.group_size,
        updates="each recipe's own number of" if own else scale.minibatches,
        rate=f"{scale.learning_rate:g}",
        size=f"{scale.layers} layers of width {scale.hidden_size}",
        warm=f"{scale.warmup_accuracy:.0%}",
        command=_text(command),
        sections="\n".join(_section(task, styles, scale) for task in results if task.runs),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _section(results: TaskResults, styles: Mapping[str, tuple[str, str]], scale: Scale) -> str:
    seeds = max(len(each) for each in results.runs.values())
    shown = [run for each in results.runs.values() for run in each if run.seed == 0]
    finals = [*results.starts[:1], *(run.final for run in shown)]
    top = _top(finals)
    threshold = results.starts[0]["forking_above"]
    profiles = [_profiles("before training", results.starts[0], top, "#555555")]
    profiles += [
        _profiles(name, each[0].final, top, styles[name][0])
        for name, each in results.runs.items()
        if each[0].seed == 0
    ]
    return f"""<section id="{results.task}">
<h2>{_text(results.task)}</h2>
<figure>{curves(results, styles)}
<figcaption>Lines: mean over seeds ({seeds}); bands: least to greatest. Entropy, reward and
divergence are of the responses sampled for training, at temperature 1, averaged over the last
{LAST} steps; pass@k is of {scale.problems} held-out problems with {scale.samples} samples each, by
the unbiased estimator.</figcaption></figure>
{_table(results, scale)}
<h3>Token entropies of generated text</h3>
{legend(top, threshold)}
<div class="profiles">{"".join(profiles)}</div>
</section>"""


def _table(results: TaskResults, scale: Scale) -> str:
    most = 2 ** (scale.samples.bit_length() - 1)
    columns: list[tuple[str, Callable[[Run], float], str | None]] = [
        ("pass@1", lambda run: run.final["pass_at_k"]["1"], "1"),
        (f"pass@{most}", lambda run: run.final["pass_at_k"][str(most)], str(most)),
        ("entropy, nats", lambda run: run.final["entropy"], "entropy"),
        ("forking tokens, share", lambda run: run.final["forking"], "forking"),
        (f"reward, last {LAST} steps", lambda run: run.last("reward"), None),
        (f"KL, nats per token, last {LAST} steps", lambda run: run.last("kl_reference"), None),
        ("responses sampled", lambda run: sum(row["sampled"] for row in run.rows), None),
    ]
    head = "".join(f"<th>{_text(name)}</th>" for name, _, _ in columns)
    start = "".join(f"<td>{_start(results.starts, key)}</td>" for _, _, key in columns)
    body = "".join(
        f"<tr><th>{_text(name)}</th>"
        + "".join(
            f"<td>{_number(estimate([get(run) for run in runs]))}</td>" for _, get, _ in columns
        )
        + "</tr>"
        for name, runs in results.runs.items()
    )
    return f"""<table><tr><th>recipe</th>{head}</tr>
<tr><th>before training</th>{start}</tr>
{body}</table>
<p class="note">± is half of Student's 95 % interval of the mean over seeds: with so few seeds,
wide. pass@k, entropy and forking tokens are of the held-out samples at the end.</p>"""


def _start(starts: Sequence[dict[str, Any]], key: str | None) -> str:
    if key is None:
        return ""
    values = [start[key] if key in start else start["pass_at_k"][key] for start in starts]
    return _number(estimate(values))


def _number(value: Estimate) -> str:
    if value.mean >= 100:
        return f"{value.mean:.0f}" + ("" if math.isnan(value.half) else f" ± {value.half:.0f}")
    return f"{value.mean:.3f}" + ("" if math.isnan(value.half) else f" ± {value.half:.3f}")


def _profiles(name: str, final: dict[str, Any], top: float, colour: str) -> str:
    above = final["forking_above"]
    rows = "".join(profile(each, top=top, forking_above=above) for each in final["profiles"])
    return f'<div class="recipe"><h4 style="border-color:{colour}">{_text(name)}</h4>{rows}</div>'


def _top(finals: Sequence[dict[str, Any]]) -> float:
    """The end of the colour scale: the greatest entropy shown, in steps of half a nat."""
    greatest = max(
        (token[1] for final in finals for each in final["profiles"] for token in each["tokens"]),
        default=0.0,
    )
    return max(0.5, math.ceil(2 * greatest) / 2)


def _text(text: str) -> str:
    return html.escape(text)
