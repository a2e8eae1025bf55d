"""What a monitor sees over two and three processes is what one sees of all tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from entropy_ext import TokenStats, token_stats
from entropy_ext.recipes import Recipe
from entropy_ext.rl.diagnostics import EntropyMonitor
from tests.distributed.processes import run_ranks
from tests.recipe_runs import make_logits, make_rollout

# Rows of each rank; prompts are whole on one of them. The last rank of three has nothing.
PARTS: dict[int, list[slice]] = {
    2: [slice(0, 2), slice(2, 6)],
    3: [slice(0, 5), slice(5, 6), slice(6, 6)],
}


def _steps(rows: slice, group: Any = None) -> list[dict[str, float]]:
    """Two steps, so that changes and the ceiling are seen; the second has wrong answers alone."""
    monitor = EntropyMonitor(k=2, top_fraction=0.2, group=group)
    seen = []
    for step, scale in enumerate((1.0, 0.5)):
        correct = torch.tensor([True, False, False, True, True, False])
        rollout = make_rollout(
            prompt=torch.tensor([0, 0, 1, 1, 1, 2]),
            correct=correct,
            rewards=correct.double() * (step == 0),
        )
        logits = scale * make_logits()
        stats = token_stats(logits, rollout.tokens, mask=rollout.mask, extras=True)
        advantages = Recipe().targets(rollout).advantages
        mine = TokenStats(*(x[rows] for x in stats if x is not None))
        metrics = {
            "tokens": rollout.mask[rows].sum(),
            "clip_low": (rollout.mask & (stats.logp < -2))[rows].sum(),
            "clip_high": (rollout.mask & (stats.logp > -1))[rows].sum(),
        }
        seen.append(
            monitor.floats(monitor.update(mine, rollout.rows(rows), advantages[rows], metrics))
        )
    return seen


def _watch(groups: dict[int, Any], rank: int) -> dict[int, Any]:
    return {
        world: _steps(PARTS[world][rank], group)
        for world, group in groups.items()
        if group is not None
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run_ranks(_watch, 3, tmp_path_factory.mktemp("monitor"))


@pytest.mark.parametrize("world", [2, 3])
def test_as_one_process(world: int, ranks: list[Any]) -> None:
    """Catches a mean of the ranks' means, quantiles and shares of one rank's tokens, and a rank
    without responses left waiting or dividing by 0."""
    whole = _steps(slice(0, 6))
    assert whole[0]["clip/low"] > 0 < whole[0]["clip/high"]
    for rank in range(world):
        got = ranks[rank][world]
        assert got == ranks[0][world]
        for step, expected in zip(got, whole, strict=True):
            assert step == pytest.approx(expected, abs=1e-12)


def test_the_parts_differ_from_the_whole() -> None:
    """Without this every rank might see the same by itself."""
    whole, part = _steps(slice(0, 6)), _steps(PARTS[2][0])
    alike = {name for name in whole[0] if part[0][name] == pytest.approx(whole[0][name], abs=1e-9)}
    assert alike <= {"entropy_change/measured", "pass/k"}
