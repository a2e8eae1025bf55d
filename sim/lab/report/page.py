"""runs/report/index.html: verdicts, plots, numbers; the tables lie beside it."""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from matplotlib import rc_context
from matplotlib.axes import Axes

from sim.lab.experiment import GROUPS, Experiment, Finding
from sim.lab.report.style import PAGE, SUMMARY
from sim.lab.store import Result, Store, key_of
from sim.lab.tables import Table

__all__ = ["write"]

PREVIEW = 8
"""rows of a table shown on the page; all are in its file"""
FILES = "tables"
"""folder of the CSV files, beside the page"""


def write(
    path: Path,
    experiments: Sequence[Experiment],
    store: Store,
    results: Mapping[str, Result],
    failures: Mapping[str, str],
) -> None:
    """Write the page for what there is, and the tables of the results as CSV files beside it.

    Experiments without a result are named as such. A page of all tables would be tens of megabytes.
    """
    (path.parent / FILES).mkdir(parents=True, exist_ok=True)
    findings = {
        experiment.name: experiment.findings(results[experiment.name].tables)
        for experiment in experiments
        if experiment.name in results
    }
    parts, contents = [], []
    for group in GROUPS:
        members = [experiment for experiment in experiments if experiment.group == group]
        if not members:
            continue
        lines, sections = [], []
        for experiment in members:
            name = experiment.name
            if name in results:
                lines.append(_line(experiment, findings[name]))
                sections.append(
                    _section(experiment, findings[name], results[name], store, path.parent)
                )
            else:
                lines.append(_absent(experiment, name in failures))
                if name in failures:
                    sections.append(_failure(experiment, failures[name]))
        anchor = re.sub("[^a-z]+", "-", group.lower())
        contents.append(f'<li><a href="#{anchor}">{_text(group)}</a>: {len(members)}</li>')
        table = SUMMARY.format(lines="\n".join(lines))
        parts.append((f'<h2 id="{anchor}">{_text(group)}</h2>{table}', "\n".join(sections)))
    verdicts = [e.verdict(findings[e.name]) for e in experiments if e.name in results]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts)))
    page = PAGE.format(
        profile=store.profile.name,
        seeds=store.profile.seeds,
        counts=_text(counts or "nothing yet"),
        minutes=f"{sum(result.seconds for result in results.values()) / 60:.1f}",
        contents="\n".join(contents),
        summary="\n".join(summary for summary, _ in parts),
        changes=_changes(experiments, store),
        sections="\n".join(sections for _, sections in parts),
    )
    path.write_text(page, encoding="utf-8")


def _line(experiment: Experiment, findings: Sequence[Finding]) -> str:
    """One line of the summary, with the first figure that decides."""
    verdict = experiment.verdict(findings)
    deciding = next((f for f in findings if not f.holds), findings[0])
    seen = sum(finding.holds for finding in findings)
    return (
        f'<tr><td><a href="#{experiment.name}">{_text(experiment.title)}</a></td>'
        f"<td>{_badge(verdict)}</td><td class=number>{seen} of {len(findings)}</td>"
        f"<td>{_text(deciding.criterion.text)}</td>"
        f"<td class=number>{_text(str(deciding.measured))}</td>"
        f"<td class=number>{_text(deciding.criterion.wanted)}</td></tr>"
    )


def _absent(experiment: Experiment, failed: bool) -> str:
    state = "failed" if failed else "not run"
    link = f'<a href="#{experiment.name}">{_text(experiment.title)}</a>'
    return (
        f"<tr><td>{link if failed else _text(experiment.title)}</td>"
        f"<td>{_badge(state)}</td><td></td><td></td><td></td><td></td></tr>"
    )


def _failure(experiment: Experiment, message: str) -> str:
    return (
        f'<section id="{experiment.name}"><h2>{_text(experiment.title)}</h2>'
        f"<pre>{_text(message)}</pre></section>"
    )


def _section(
    experiment: Experiment,
    findings: Sequence[Finding],
    result: Result,
    store: Store,
    folder: Path,
) -> str:
    rows = "\n".join(
        f"<tr><td>{_text(f.criterion.text)}</td><td class=number>{_text(f.criterion.wanted)}</td>"
        f"<td class=number>{_text(str(f.measured))}</td>"
        f"<td class=number>{f.measured.samples or 'exact'}</td>"
        f"<td>{'yes' if f.holds else '<b>no</b>'}</td></tr>"
        for f in findings
    )
    facts = [
        ("Claim", f"{_text(experiment.claim)} <cite>{_text(experiment.paper)}</cite>"),
        ("Effect", _text(experiment.effect)),
        ("Test", _text(experiment.test)),
    ]
    if experiment.outside:
        facts.append(("Outside", _text(experiment.outside)))
    facts += [("Revised", _text(revision)) for revision in experiment.revisions]
    stem = folder / FILES / f"{store.profile.name}-{experiment.name}"
    numbers = [_numbers(stem, name, table) for name, table in result.tables.items()]
    if experiment.standings is not None:
        table = experiment.standings(result.tables)
        numbers.insert(0, _numbers(stem, "standings", table, preview=len(table.rows)))
    current = result.key == key_of(experiment, store.profile)
    older = "" if current else ' <b class="older">computed by other code than this</b>'
    return f"""<section id="{experiment.name}">
<h2>{_text(experiment.title)} {_badge(experiment.verdict(findings))}
<a class=up href="#contents">contents</a></h2>
<dl>{"".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts)}</dl>
<table><tr><th>quantity</th><th>wanted</th><th>measured, 95 % interval</th><th>seeds</th>
<th>seen</th></tr>
{rows}</table>
<figure>{_picture(experiment.plot(result.tables), experiment.title)}
<figcaption>{_text(experiment.caption)}</figcaption></figure>
{"".join(numbers)}
<p class=command>python -m sim run {experiment.name}{_option(store)}
<span>{result.seconds:.0f} s of one core, {result.date}{older}</span></p>
</section>"""


def _option(store: Store) -> str:
    return " --quick" if store.profile.name == "quick" else ""


def _picture(axes: Axes, title: str) -> str:
    figure = axes.get_figure(root=True)
    assert figure is not None
    data = io.BytesIO()
    # Without version and date, and with ids that are not random: the same numbers give the same
    # page.
    with rc_context({"svg.hashsalt": title}):
        figure.savefig(data, format="svg", metadata={"Creator": None, "Date": None})
    encoded = quote(data.getvalue(), safe=" /:;=,()+!*@~'<>")
    return f'<img alt="{_text(title)}" src="data:image/svg+xml,{encoded}">'


def _numbers(stem: Path, name: str, table: Table, preview: int = PREVIEW) -> str:
    """The first rows of a table, and a link to the file that all of them are written to."""
    file = stem.with_name(re.sub(r"\W+", "-", f"{stem.name} {name}") + ".csv")
    file.write_text(table.csv(), encoding="utf-8")
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td class=number>{_cell(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows[:preview]
    )
    return (
        f"<details><summary>{_text(name)}: {len(table.rows)} rows, "
        f'<a href="{FILES}/{quote(file.name)}">{file.name}</a></summary>'
        f"<table><tr>{head}</tr>{rows}</table></details>"
    )


def _cell(cell: object) -> str:
    return f"{cell:.5g}" if isinstance(cell, float) else _text(str(cell))


def _changes(experiments: Sequence[Experiment], store: Store) -> str:
    """Criteria that are not those under which a first result was seen."""
    history = store.criteria()
    lines = []
    for experiment in experiments:
        seen = history.get(experiment.name, [])
        for before, after in itertools.pairwise(seen):
            gone = [c for c in before["criteria"] if c not in after["criteria"]]
            new = [c for c in after["criteria"] if c not in before["criteria"]]
            lines.append(
                f"<li><b>{_text(experiment.title)}</b>, {after['date']}: "
                f"{_text('; '.join(gone) or 'nothing')} → {_text('; '.join(new) or 'nothing')}</li>"
            )
        lines += [
            f"<li><b>{_text(experiment.title)}</b>, in its file: {_text(revision)}</li>"
            for revision in experiment.revisions
        ]
    return "<ul>" + "\n".join(lines) + "</ul>" if lines else "<p>None.</p>"


def _badge(state: str) -> str:
    return f'<span class="badge {re.sub("[^a-z]", "-", state)}">{_text(state)}</span>'


def _text(text: str) -> str:
    return html.escape(text)
