"""The chunked head against what stores all logits: `python -m bench.linear_head`.

Every candidate goes from hidden states and a weight to the gradients of both, for the loss
Σ −(logp + 0.01·entropy)/N. The floor is three bare matrix products of the same sizes: logits, the
gradient of the hidden states, the gradient of the weight.
"""

from __future__ import annotations

import csv as csv_files
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from bench.baselines import log_softmax_statistics
from bench.candidates import DTYPES
from bench.environment import environment
from bench.memory import peak_extra_bytes
from bench.report import milliseconds, warn_if_busy, wide_console
from bench.timing import Call, Stopwatch, cpu_stopwatch, cuda_stopwatch, no_wait, round_robin
from entropy_ext import linear_token_loss, linear_token_stats, token_stats
from entropy_ext.projection import chunk_rows

__all__ = ["HeadResult", "measure"]

ENTROPY_WEIGHT = 0.01
FLOOR = "bare"

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class HeadResult:
    """The time and memory of one implementation; its fields are the CSV columns."""

    tokens: int
    hidden: int
    vocab: int
    dtype: str
    chunk: int
    implementation: str
    ms: float
    """Median."""
    ms_p20: float
    ms_p80: float
    ratio: float
    """ms over the three bare matrix products', same run."""
    extra_mb: float
    """Peak memory above what stood before the step, in 10⁶ bytes."""
    memory_ratio: float
    """That over one chunk of logits and the two gradients."""
    note: str
    date: str
    commit: str
    device: str
    threads: int
    isa: str
    torch: str
    compiler: str
    cuda: str


class Problem:
    """Hidden states and a weight, both in need of gradients, and a token for each row."""

    def __init__(self, tokens: int, hidden: int, vocab: int, dtype: str, device: torch.device):
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device)

        # Logits of standard deviation 3, as in the benchmark of token_stats.
        self.hidden = (3 * hidden**-0.5 * normal(tokens, hidden)).to(DTYPES[dtype])
        self.weight = normal(vocab, hidden).to(DTYPES[dtype])
        self.tokens = torch.randint(vocab, (tokens,), generator=generator, device=device)
        self.hidden.requires_grad_()
        self.weight.requires_grad_()

    def loss(self, logp: Tensor, entropy: Tensor) -> Tensor:
        """A term per token."""
        return -(logp + ENTROPY_WEIGHT * entropy) / len(self.tokens)

    def bare(self) -> None:
        """Three matrix products and nothing else."""
        with torch.no_grad():
            logits = self.hidden @ self.weight.T
            kept = logits @ self.weight, logits.T @ self.hidden
        del kept

    def stepper(self, forward: Callable[[], Tensor]) -> Callable[[int], None]:
        """Forward and backward, from no gradients to gradients."""

        def step(turn: int) -> None:
            self.hidden.grad = self.weight.grad = None
            forward().backward()

        return step

    def candidates(self, chunk: int) -> dict[str, Callable[[], Tensor]]:
        """name → the loss."""

        def ours() -> Tensor:
            return linear_token_loss(
                *(self.hidden, self.weight, self.tokens),
                lambda stats, rows: self.loss(stats.logp, stats.entropy),
                chunk_tokens=chunk,
            )[0]

        def recomputed() -> Tensor:
            stats = linear_token_stats(self.hidden, self.weight, self.tokens, chunk_tokens=chunk)
            return self.loss(stats.logp, stats.entropy).sum()

        def stored() -> Tensor:
            stats = token_stats(self.hidden @ self.weight.T, self.tokens, inplace_backward=True)
            return self.loss(stats.logp, stats.entropy).sum()

        def eager() -> Tensor:
            return self.loss(
                *log_softmax_statistics(self.hidden @ self.weight.T, self.tokens)
            ).sum()

        found = {
            "ours": ours,
            "ours, recomputed": recomputed,
            "ours, logits stored": stored,
            "eager": eager,
            "compile": torch.compile(eager, dynamic=False),
        }
        if hasattr(functional, "linear_cross_entropy"):
            options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)

            def pytorch() -> Tensor:
                return functional.linear_cross_entropy(
                    self.hidden, self.weight, self.tokens, options=options
                )

            found["torch"] = pytorch
        return found


NOTES = {
    FLOOR: "three matrix products, all logits stored",
    "torch": "linear_cross_entropy, chunked: log-probability only",
}


def measure(
    tokens: int,
    hidden: int,
    vocab: int,
    dtype: str,
    *,
    device: torch.device,
    repeats: int,
    chunk: int | None = None,
    only: Sequence[str] = (),
) -> list[HeadResult]:
    """Time all candidates on one problem, interleaved.

    Args:
        tokens, hidden, vocab: N, D and V.
        dtype: of DTYPES.
        device: cpu or cuda.
        repeats: timed steps of each.
        chunk: tokens per chunk of ours; None takes the default.
        only: candidates to time besides the bare products; none named takes all.

    Raises:
        ValueError: a candidate that does not exist.
    """
    problem = Problem(tokens, hidden, vocab, dtype, device)
    chunk = min(chunk_rows(problem.hidden, vocab, chunk), tokens)
    stopwatch: Stopwatch = cpu_stopwatch
    synchronize: Callable[[], None] = no_wait
    if device.type == "cuda":
        stopwatch = cuda_stopwatch(device)
        synchronize = torch.cuda.synchronize

    calls = {FLOOR: Call(lambda turn: problem.bare())}
    candidates = problem.candidates(chunk)
    if unknown := sorted(set(only) - set(candidates)):
        raise ValueError(
            f"only: expected some of {', '.join(candidates)}; got {', '.join(unknown)}"
        )
    for name in only or candidates:
        calls[name] = Call(problem.stepper(candidates[name]))
    samples = round_robin(calls, repeats=repeats, stopwatch=stopwatch, synchronize=synchronize)
    itemsize = DTYPES[dtype].itemsize
    needed = itemsize * (chunk * vocab + tokens * hidden + vocab * hidden)
    shared = asdict(environment(device))
    results = []
    for name, sample in samples.items():
        problem.hidden.grad = problem.weight.grad = None
        step = functools.partial(calls[name].run, 0)
        extra = None if sample.error else peak_extra_bytes(step, device)
        results.append(
            HeadResult(
                tokens=tokens,
                hidden=hidden,
                vocab=vocab,
                dtype=dtype,
                chunk=chunk,
                implementation=name,
                ms=sample.quantile(0.5),
                ms_p20=sample.quantile(0.2),
                ms_p80=sample.quantile(0.8),
                ratio=sample.quantile(0.5) / samples[FLOOR].quantile(0.5),
                extra_mb=math.nan if extra is None else extra / 1e6,
                memory_ratio=math.nan if extra is None else extra / needed,
                note=sample.error or NOTES.get(name, ""),
                **shared,
            )
        )
    return results


def append_rows(path: Path, results: list[HeadResult]) -> None:
    """Append to a CSV file, with a header first if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv_files.DictWriter(file, [column.name for column in fields(HeadResult)])
        if file.tell() == 0:
            writer.writeheader()
        for result in results:
            row = asdict(result)
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def table_of(results: list[HeadResult]) -> Table:
    """One problem as a table for people."""
    first = results[0]
    title = f"[{first.tokens}, {first.hidden}] × [{first.hidden}, {first.vocab}] {first.dtype}"
    table = Table(title=f"{title}, chunks of {first.chunk} tokens", title_justify="left")
    for heading in ("implementation", "ms", "p20–p80", "× bare", "extra MB", "× needed", "note"):
        table.add_column(
            heading, justify="left" if heading in ("implementation", "note") else "right"
        )
    for row in results:
        table.add_row(
            row.implementation,
            milliseconds(row.ms),
            f"{milliseconds(row.ms_p20)}–{milliseconds(row.ms_p80)}",
            f"{row.ratio:.2f}",
            f"{row.extra_mb:.0f}",
            f"{row.memory_ratio:.2f}",
            row.note,
        )
    return table


@app.command()
def main(
    tokens: Annotated[int, typer.Option(min=1)] = 1024,
    hidden: Annotated[int, typer.Option(min=1)] = 896,
    vocab: Annotated[int, typer.Option(min=1)] = 151936,
    dtype: Annotated[str, typer.Option(help=f"Of {', '.join(DTYPES)}.")] = "float32",
    chunk: Annotated[int | None, typer.Option(min=1, help="Tokens per chunk.")] = None,
    repeats: Annotated[int, typer.Option(min=3)] = 5,
    only: Annotated[
        list[str] | None, typer.Option(help="Besides the bare products; repeatable; default: all.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda if there.")] = None,
    csv: Annotated[Path, typer.Option(help="Append rows here.")] = Path("runs/linear_head.csv"),
) -> None:
    """Time the step from hidden states to gradients, and measure its memory."""
    if dtype not in DTYPES:
        raise typer.BadParameter(f"expected one of {', '.join(DTYPES)}; got {dtype!r}")
    console = wide_console()
    warn_if_busy(console)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    sizes = (tokens, hidden, vocab, dtype)
    try:
        with console.status("measuring"):
            results = measure(*sizes, device=place, repeats=repeats, chunk=chunk, only=only or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    append_rows(csv, results)
    console.print(table_of(results))
    console.print(f"{len(results)} rows appended to {csv}", highlight=False)


if __name__ == "__main__":
    app()
