"""Instructions per logit of the vocabulary kernels: `python -m bench.sass`, no GPU needed.

Compiles them for one architecture, disassembles them with nvdisasm (of the CUDA toolkit, or of the
package nvidia-cuda-nvdisasm) and finds the shortest way through the loop over tiles on which a
thread loads a whole tile and takes every exponential: what a tile of finite, aligned logits costs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bench.ptxas import FLAGS, SOURCES, demangle
from bench.report import wide_console

__all__ = ["TilePath", "functions", "shortest_tile"]

FILES = ("token_stats_forward", "token_stats_backward")
KERNELS = ("forward_rows", "backward_rows")
LOADS = 4
"""Vectors of 16 bytes in a thread's part of a tile."""
LOGITS = {"float": 4, "double": 2, "__nv_bfloat16": 8, "__half": 8}
"""Of one vector."""

LOAD, STORE, EXPONENTIAL = "LDG.E.EF.128", "STG.E.EF.128", "MUFU.EX2"


@dataclass(frozen=True)
class TilePath:
    """The instructions on a way through the loop."""

    opcodes: Counter[str]
    """How often each occurs, without its modifiers."""

    @property
    def length(self) -> int:
        """All of them."""
        return self.opcodes.total()


FUNCTION = re.compile(r"^\.text\.(?P<name>\w+):$")
LABEL = re.compile(r"^(?P<label>\.L_x_\d+):")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?P<text>.*?)\s*;")
TARGET = re.compile(r"\bBRA\b.*`\((?P<label>\.L_x_\d+)\)")
PREDICATE = re.compile(r"^@!?U?P\w+\s+")
# Some branches have their condition among the operands: BRA.U UP0, `(.L_x_1).
LEAVES = re.compile(r"^(EXIT|RET|BRA(\.\w+)*\s+`)")


def functions(listing: str) -> dict[str, list[str]]:
    """Labels and instructions of each function in what nvdisasm prints, by mangled name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in listing.splitlines():
        if function := FUNCTION.match(line):
            lines = found.setdefault(function["name"], [])
        elif label := LABEL.match(line):
            lines.append(label["label"] + ":")
        elif instruction := INSTRUCTION.match(line):
            lines.append(instruction["text"])
    return found


def opcode(instruction: str) -> str:
    """Without predicate, modifiers and operands."""
    return PREDICATE.sub("", instruction).split()[0].split(".")[0]


def shortest_tile(lines: Sequence[str], exponentials: int, stores: int) -> TilePath:
    """The shortest way through the innermost loop around the first 16-byte load.

    Args:
        lines: of functions().
        exponentials: of a whole tile; one more, for a risen maximum, may be among them.
        stores: of 16 bytes.

    Raises:
        ValueError: there is no such loop, or no such way.
    """
    code: list[str] = []
    at: dict[str, int] = {}
    for line in lines:
        if line.endswith(":"):
            at[line[:-1]] = len(code)
        else:
            code.append(line)
    first = next((i for i, text in enumerate(code) if LOAD in text), None)
    loops = [
        (at[target["label"]], i)
        for i, text in enumerate(code)
        if (target := TARGET.search(text))
        and first is not None
        and at[target["label"]] <= first < i
    ]
    if not loops:
        raise ValueError("no loop around a 16-byte load")
    begin = max(begin for begin, _ in loops)
    end = max(end for loop, end in loops if loop == begin)

    # From the end backwards: (loads, exponentials, stores) still to come → length, next place.
    ways: dict[int, dict[tuple[int, int, int], tuple[int, int]]] = {}
    for i in range(end, begin - 1, -1):
        own = (LOAD in code[i], EXPONENTIAL in code[i], STORE in code[i])
        ways[i] = {}
        if i == end:
            ways[i][own] = (1, -1)
            continue
        for after in successors(code, at, i):
            for counts, (length, _) in ways.get(after, {}).items():
                key = (own[0] + counts[0], own[1] + counts[1], own[2] + counts[2])
                if key not in ways[i] or ways[i][key][0] > length + 1:
                    ways[i][key] = (length + 1, after)
    wanted = [(LOADS, exponentials + more, stores) for more in (0, 1)]
    reached = [key for key in wanted if key in ways[begin]]
    if not reached:
        raise ValueError(f"no way with {LOADS} loads, {exponentials} exponentials, {stores} stores")

    opcodes: Counter[str] = Counter()
    i, left = begin, min(reached, key=lambda key: ways[begin][key][0])
    while i >= 0:
        opcodes[opcode(code[i])] += 1
        following = ways[i][left][1]
        own = (LOAD in code[i], EXPONENTIAL in code[i], STORE in code[i])
        left = (left[0] - own[0], left[1] - own[1], left[2] - own[2])
        i = following
    if opcodes["LDG"] != LOADS:
        raise ValueError(f"the shortest way has {opcodes['LDG']} loads, not {LOADS}")
    return TilePath(opcodes)


def successors(code: Sequence[str], at: dict[str, int], i: int) -> list[int]:
    """Where control may go from instruction i."""
    target = TARGET.search(code[i])
    taken = [] if target is None else [at[target["label"]]]
    return taken if LEAVES.match(code[i]) else [*taken, i + 1]


def disassemble(source: Path, arch: int) -> str:
    """What nvdisasm prints of a file compiled for one architecture."""
    with tempfile.TemporaryDirectory() as directory:
        cubin = str(Path(directory) / "kernels.cubin")
        flags = (*FLAGS, f"-arch=sm_{arch}", "-cubin", "-o", cubin)
        subprocess.run(["nvcc", *flags, str(source)], check=True)
        return subprocess.run(
            ["nvdisasm", "-c", cubin], capture_output=True, text=True, check=True
        ).stdout


def main(arch: Annotated[int, typer.Option(help="Compute capability, as in sm_90.")] = 90) -> None:
    """Print the instructions per logit of the kernels that read the vocabulary."""
    console = wide_console()
    for tool in ("nvcc", "nvdisasm"):
        if shutil.which(tool) is None:
            console.print(
                f"{tool} is not on PATH: install the CUDA toolkit (nvdisasm alone is also in the "
                "package nvidia-cuda-nvdisasm)"
            )
            raise typer.Exit(1)
    table = Table(title=f"Instructions per logit on sm_{arch}", title_justify="left")
    table.add_column("kernel", overflow="fold")
    for heading in ("all", "exponentials"):
        table.add_column(heading, justify="right")
    for file in FILES:
        with console.status(f"nvcc {file}.cu"):
            found = functions(disassemble(SOURCES / f"{file}.cu", arch))
        for name, lines in zip(demangle(list(found)), found.values(), strict=True):
            element = re.search(r"<(\w+)", name)
            if not name.startswith(KERNELS) or element is None or element[1] == "double":
                continue
            logits = LOADS * LOGITS[element[1]]
            path = shortest_tile(lines, logits, LOADS if name.startswith("backward") else 0)
            counts = (path.length, path.opcodes["MUFU"])
            table.add_row(name, *(f"{count / logits:.2f}" for count in counts))
    if not table.row_count:
        console.print(f"no kernel named {' or '.join(KERNELS)} found; is c++filt on PATH?")
        raise typer.Exit(1)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
