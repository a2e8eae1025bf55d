"""`python -m sim demo`: theory, speed and a training run, and a page that shows them."""

from __future__ import annotations

import base64
import csv
import html
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.rule import Rule

__all__ = ["demo", "write_report"]

INTERRUPTED = 130


class Part(NamedTuple):
    """A command of the demo, and what it leaves behind for the page."""

    title: str
    text: str
    arguments: tuple[str, ...]
    """after `python -m`"""
    pictures: tuple[str, ...]
    table: str | None
    """a CSV file to show whole"""
    columns: tuple[str, ...] = ()
    """of that file"""
    environment: tuple[tuple[str, str], ...] = ()


PARTS = (
    Part(
        "Theory: the entropy change of a policy-gradient step",
        "Random tabular softmax policies take one exact gradient step. To first order the entropy "
        "changes by −η·Cov(ln π, Δz/η): large where likely actions are good ones. The measured "
        "change leaves that line by an amount that falls with η².",
        ("sim", "theorem1", "--out", "{out}/theorem1"),
        ("theorem1/predicted_measured.png", "theorem1/error_order.png"),
        None,
    ),
    Part(
        "Speed: log-probability and entropy of every token",
        "One run, all implementations in turns. The ratio is to a pure read or copy of the same "
        "buffers, which no implementation can beat.",
        ("bench", "--quick", "--csv", "{out}/bench.csv"),
        (),
        "bench.csv",
        ("rows", "vocab", "dtype", "direction", "implementation", "ms", "gb_s", "ratio", "floor"),
    ),
    Part(
        "Training: GRPO and DAPO side by side",
        "A small transformer, warmed up on sums, learns from verifiable rewards alone. "
        "Log-probabilities, entropies and their gradients come from token_stats.",
        ("sim", "rlvr", "--demo", "--out", "{out}/rlvr"),
        ("rlvr/training.png",),
        None,
        # Many short parallel regions: threads that spin between them crawl where cores are shared.
        environment=(("OMP_WAIT_POLICY", "passive"),),
    ),
)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all results.", file_okay=False)] = Path(
        "runs/demo"
    ),
) -> None:
    """Verify the theory, measure the kernels, train a small model; then show all on one page.

    The page is written anew after each part, so that an interruption leaves one of what was
    finished; a training run that was interrupted goes on where it stopped.
    """
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    # The benchmark adds rows to its file; the page should show this run's.
    (out / "bench.csv").unlink(missing_ok=True)
    page = out / "report.html"
    outcomes: list[str] = []
    status = 0
    for part in PARTS:
        console.print(Rule(part.title))
        started = time.perf_counter()
        command = [argument.format(out=out) for argument in part.arguments]
        environment = {**os.environ, **dict(part.environment)}
        try:
            code = subprocess.run([sys.executable, "-m", *command], env=environment).returncode
        except KeyboardInterrupt:
            code = INTERRUPTED
        seconds = time.perf_counter() - started
        outcomes.append(f"{seconds:.0f} s" + (f", exit status {code}" if code else ""))
        write_report(page, out, outcomes)
        status = status or code
        if code == INTERRUPTED:
            break
    console.print(f"{page}: open it in a browser", highlight=False)
    if status:
        raise typer.Exit(status)


def write_report(page: Path, folder: Path, outcomes: list[str]) -> None:
    """A page of its own, pictures embedded, of the parts that have an outcome."""
    sections = [
        _section(part, folder, outcome) for part, outcome in zip(PARTS, outcomes, strict=False)
    ]
    page.write_text(_PAGE.format(sections="\n".join(sections)), encoding="utf-8")


def _section(part: Part, folder: Path, outcome: str) -> str:
    command = html.escape("python -m " + " ".join(part.arguments).format(out=folder))
    pieces = [
        f"<h2>{html.escape(part.title)}</h2>",
        f"<p>{html.escape(part.text)}</p>",
        f"<p class=command>{command} <span>{html.escape(outcome)}</span></p>",
    ]
    for name in part.pictures:
        if (folder / name).exists():
            data = base64.b64encode((folder / name).read_bytes()).decode()
            pieces.append(f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">')
    if part.table is not None and (folder / part.table).exists():
        with (folder / part.table).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        pieces.append(_table(part.columns, [[row[name] for name in part.columns] for row in rows]))
    return "\n".join(pieces)


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>\n{line(list(columns), 'th')}\n{body}\n</table>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>entropy_ext demo</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; font-size: 14px; }}
td, th {{ padding: 2px 10px; text-align: right; border-bottom: 1px solid #ddd; }}
.command {{ font-family: monospace; background: #f4f4f4; padding: 4px 8px; }}
.command span {{ color: #777; float: right; }}
</style>
<h1>entropy_ext</h1>
{sections}
</html>
"""
