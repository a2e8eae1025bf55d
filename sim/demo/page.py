"""The page that shows what the parts found."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Mapping
from pathlib import Path

from sim.demo.parts import PARTS, Part

__all__ = ["write_page"]


def write_page(page: Path, folder: Path, outcomes: Mapping[str, str]) -> None:
    """A page of its own, pictures embedded, of the parts that have an outcome by their name."""
    sections = [
        _section(part, folder, outcomes[part.name]) for part in PARTS if part.name in outcomes
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
        pieces.append(
            _table(part.columns, [[row[name] or "" for name in part.columns] for row in rows])
        )
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
