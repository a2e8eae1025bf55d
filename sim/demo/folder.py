"""Which parts of a demo are done, by which code; and what an earlier one left, kept aside."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import entropy_ext
from entropy_ext import _core
from sim.demo.parts import PARTS, Part

__all__ = ["PAGE", "Folder", "stamp"]

PAGE, DONE, LOCK = "report.html", "done.json", "demo.lock"
LIBRARIES = ("matplotlib", "numpy", "reasoning-gym", "torch", "transformers")


def stamp() -> str:
    """A hash of all that the results depend on: code, libraries, machine."""
    digest = hashlib.sha256(Path(_core.__file__).read_bytes())
    simulator = Path(__file__).parents[1]
    for folder in (Path(entropy_ext.__file__).parent, simulator, simulator.with_name("bench")):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    libraries = {name: version(name) for name in LIBRARIES}
    machine = platform.node(), os.cpu_count(), os.environ.get("OMP_NUM_THREADS")
    digest.update(repr((entropy_ext.backend_info(), libraries, machine)).encode())
    return digest.hexdigest()


class Folder:
    """A folder of results, and the outcomes of the parts that are done.

    Args:
        path: where; need not exist.
        stamp: parts done under another one do not count.
    """

    def __init__(self, path: Path, stamp: str) -> None:
        self.path = path
        self.stamp = stamp
        self.done: dict[str, str] = {}
        self.current = False
        """whether what is there was made under this stamp"""
        try:
            found = json.loads((path / DONE).read_text(encoding="utf-8"))
            self.current = found["stamp"] == stamp
            if self.current:
                self.done = {
                    part.name: found["done"][part.name]
                    for part in PARTS
                    if isinstance(found["done"].get(part.name), str)
                    and all(map(Path.exists, self._files(part)))
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Of a version that kept no record, or cut short: the parts are not known to be done.
            pass

    def _files(self, part: Part) -> list[Path]:
        return [self.path / name for name in part.files]

    def finish(self, name: str, outcome: str) -> None:
        """Record that a part is done."""
        self.done[name] = outcome
        self._write()

    def begin(self, *, fresh: bool = False) -> Path | None:
        """Make way for results under this stamp; returns where those of another one are now.

        Only what a demo writes is moved, to a folder in this one with the date of its last change
        in its name; if fresh, results under this stamp are moved, too.

        Raises:
            BlockingIOError: another demo is writing here.
            OSError: the folder cannot be made or written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        if fresh:
            self.done, self.current = {}, False
        known = [self.path / PAGE, self.path / DONE]
        known += [path for part in PARTS for path in self._files(part)]
        left = [path for path in known if path.exists()]
        aside = None
        if left and not self.current:
            changed = datetime.fromtimestamp(max(path.stat().st_mtime for path in left))
            aside = self._new_folder(f"earlier-{changed:%Y-%m-%d-%H%M%S}")
            for path in left:
                path.rename(aside / path.name)
        self._write()
        return aside

    def _lock(self) -> None:
        self._locked = (self.path / LOCK).open("w")
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise

    def release(self) -> None:
        """Let other demos in."""
        self._locked.close()

    def _new_folder(self, name: str) -> Path:
        """A folder of this name, or with a number after it where there is one already."""
        count = 1
        while True:
            folder = self.path / (name if count == 1 else f"{name}-{count}")
            try:
                folder.mkdir()
            except FileExistsError:
                count += 1
            else:
                return folder

    def _write(self) -> None:
        draft = self.path / f"{DONE}.part"
        content = {"stamp": self.stamp, "done": self.done}
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(draft, self.path / DONE)
