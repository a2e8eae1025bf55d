"""One measured row, and the CSV file that keeps it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = ["PASSES", "Result", "append_csv", "read_csv", "useful_bytes"]

PASSES = ("forward", "backward", "forward+backward")


@dataclass(frozen=True)
class Result:
    """The time of one implementation on one shape and pass. Its fields are the CSV columns."""

    rows: int
    vocab: int
    dtype: str
    direction: str
    """One of PASSES."""
    implementation: str
    bytes: int
    """useful_bytes: what the pass must move, whatever this implementation moves."""
    ms: float
    """Median."""
    ms_p20: float
    ms_p80: float
    gb_s: float
    """bytes over the median, in 10⁹ bytes per second."""
    floor: str
    """What the ratio is taken to: "read", "copy" or "read+copy" of the same buffers, same run."""
    ratio: float
    extra_mb: float
    """Peak memory above what stood before the call, in 10⁶ bytes; NaN where it is unknown."""
    first_s: float
    """Seconds of the first call, compilation included; not part of ms."""
    repeats: int
    note: str
    date: str
    commit: str
    device: str
    threads: int
    isa: str
    torch: str
    compiler: str
    cuda: str

    @property
    def problem(self) -> tuple[int, int, str, str]:
        """Rows that share it were measured together, in one interleaved run."""
        return self.rows, self.vocab, self.dtype, self.direction


TYPES = {column.name: column.type for column in fields(Result)}
COLUMNS = tuple(TYPES)


def useful_bytes(direction: str, rows: int, vocab: int, itemsize: int) -> int:
    """Bytes that a pass cannot avoid moving; the numbers per token are 10⁻⁵ of it and left out."""
    logits = rows * vocab * itemsize
    transfers = {
        "forward": 1,  # read the logits
        "backward": 2,  # read the logits, write their gradient
        "forward+backward": 3,  # the sum: nothing stays in cache in between
    }
    return transfers[direction] * logits


def append_csv(path: Path, results: Iterable[Result]) -> None:
    """Append rows, with a header first if the file is new.

    Raises:
        ValueError: the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_columns(path)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        for result in results:
            writer.writerow({name: plain(value) for name, value in asdict(result).items()})


def plain(value: object) -> object:
    """Numbers with as many digits as a measurement bears."""
    return f"{value:.5g}" if isinstance(value, float) else value


def check_columns(path: Path) -> None:
    """Refuse a CSV file of another program or of another version of this one."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open(newline="") as file:
        found = next(csv.reader(file))
    if tuple(found) != COLUMNS:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}; got {found}")


def read_csv(path: Path) -> list[Result]:
    """The rows of a file that append_csv wrote."""
    check_columns(path)
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        return [
            Result(**{name: kinds[str(kind)](row[name]) for name, kind in TYPES.items()})
            for row in csv.DictReader(file)
        ]
