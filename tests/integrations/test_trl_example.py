"""The example as a reader would run it, cut short."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo_trl.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What the file defines."""
    return runpy.run_path(str(EXAMPLE))


def test_example_learns_and_draws(
    example: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An example that ran without learning would show nothing of what it says."""
    # TRL reports each trainer that is made over the network, unless it is a test's.
    monkeypatch.setenv("CI", "1")
    out = tmp_path / "plots" / "out.png"
    # Its own filter is the process's.
    with warnings.catch_warnings():
        example["main"](recipe=["grpo"], steps=60, seed=0, out=out)
    printed = capsys.readouterr().out
    rows = re.findall(r"(\d+) +│ ([\d.]+) +│ ([\d.]+) +│", printed)
    rewards = [float(reward) for _, reward, _ in rows]
    entropies = [float(entropy) for *_, entropy in rows]
    assert len(rows) == 10
    assert rewards[0] < 0.2
    assert max(rewards) > 0.6
    assert entropies[0] > 2.5
    assert min(entropies) < 1.5
    assert out.read_bytes().startswith(b"\x89PNG")


def test_example_names_the_recipes_it_knows(example: dict[str, Any], tmp_path: Path) -> None:
    """A misspelt name should not be found out after the first run."""
    with pytest.raises(typer.BadParameter, match="clip_vov: not in grpo, dapo"):
        example["main"](recipe=["grpo", "clip_vov"], steps=1, seed=0, out=tmp_path / "out.png")


def test_ctrl_c_keeps_what_is_finished(example: dict[str, Any], tmp_path: Path) -> None:
    """The first recipe's minute would be lost with the second's."""

    def learn(name: str, *_: Any) -> list[dict[str, float]]:
        if name == "entropy_neutral":
            raise KeyboardInterrupt
        return [{"step": 1, "reward": 0.5, "entropy": 1.0}]

    main = example["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(main.__globals__, "learn", learn)
        with warnings.catch_warnings():
            main(recipe=["grpo", "entropy_neutral"], steps=1, seed=0, out=tmp_path / "out.png")
        assert (tmp_path / "out.png").stat().st_size > 0
        with pytest.raises(typer.Exit):
            main(recipe=["entropy_neutral"], steps=1, seed=0, out=tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
