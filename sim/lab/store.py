"""Results on disk: each under a key of all that it depends on, written whole or not at all."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import entropy_ext
from sim.lab.experiment import Experiment, Profile
from sim.lab.tables import Table, Tables

__all__ = ["Corrupt", "Result", "Store", "key_of"]

ROOT = Path(__file__).parent


class Corrupt(Exception):
    """A result file that cannot be trusted."""


@dataclass(frozen=True)
class Result:
    """What an experiment measured."""

    tables: Tables
    seconds: float
    """of one core"""
    date: str = ""
    key: str = ""


def key_of(experiment: Experiment, profile: Profile) -> str:
    """A hash of the name, the profile, the experiment's file, the laboratory and the library.

    Of the library its Python counts, without the adapters for trainers, which the laboratory does
    not load; the kernels have tests of their own against float64.
    """
    digest = hashlib.sha256(f"{experiment.name} {profile}".encode())
    own = Path(inspect.getfile(experiment.measure))
    library = Path(entropy_ext.__file__).parent
    paths = {own, ROOT.parent / "tabular.py", *ROOT.glob("*.py"), *ROOT.glob("tasks/*.py")}
    # How results are kept, shown and commanded does not change them.
    shown = ("store", "runner", "command", "figures", "league_view")
    paths -= {ROOT / f"{name}.py" for name in shown}
    used = set(library.rglob("*.py")) - set((library / "integrations").rglob("*.py"))
    for path in [*sorted(paths), *sorted(used)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Store:
    """One JSON file for each experiment of a profile, and the history of its criteria.

    Args:
        folder: where; created.
    """

    def __init__(self, folder: Path, profile: Profile) -> None:
        self.folder = folder
        self.profile = profile
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Of an experiment's result."""
        return self.folder / f"{self.profile.name}-{name}.json"

    def load(self, name: str) -> Result | None:
        """The stored result whatever its key, or None.

        Raises:
            Corrupt: the file is cut short, was changed, or is none of ours.
        """
        try:
            content = json.loads(self.path(name).read_text(encoding="utf-8"))
            body = content["body"]
            if content["sha256"] != _checksum(body):
                raise Corrupt(f"{self.path(name)}: the checksum does not fit the content")
            tables = {
                table: Table.of(part["columns"], part["rows"])
                for table, part in body["tables"].items()
            }
            return Result(tables, body["seconds"], body["date"], body["key"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"{self.path(name)}: {type(error).__name__}: {error}") from error

    def save(self, experiment: Experiment, result: Result) -> Result:
        """Store a result under its key, or that of the code as it is now."""
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        key = result.key or key_of(experiment, self.profile)
        stored = Result(result.tables, result.seconds, date, key)
        body = {
            "key": stored.key,
            "date": stored.date,
            "seconds": stored.seconds,
            "tables": {
                name: {"columns": table.columns, "rows": table.rows}
                for name, table in stored.tables.items()
            },
        }
        _write(self.path(experiment.name), json.dumps({"sha256": _checksum(body), "body": body}))
        self.note_criteria(experiment)
        return stored

    def note_criteria(self, experiment: Experiment) -> None:
        """Record the criteria if they are not those of the last time."""
        now = [f"{criterion.text}: {criterion.wanted}" for criterion in experiment.criteria]
        history = self.criteria()
        seen = history.setdefault(experiment.name, [])
        if not seen or seen[-1]["criteria"] != now:
            date = datetime.now(timezone.utc).isoformat(timespec="seconds")
            seen.append({"date": date, "criteria": now})
            _write(self._history, json.dumps(history, indent=1, ensure_ascii=False))

    def criteria(self) -> dict[str, list[dict[str, Any]]]:
        """Experiment → its criteria through time, [{date, criteria}], since the first result."""
        try:
            found: dict[str, list[dict[str, Any]]] = json.loads(
                self._history.read_text(encoding="utf-8")
            )
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise Corrupt(f"{self._history}: {error}") from error
        return found

    @property
    def _history(self) -> Path:
        return self.folder / "criteria.json"


def _checksum(body: object) -> str:
    # Through text and back, so that tuples and lists, 1 and 1.0 come out alike on both sides.
    text = json.dumps(json.loads(json.dumps(body)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    """Whole or not at all: an interrupt leaves the old file."""
    draft = path.with_suffix(f".{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
