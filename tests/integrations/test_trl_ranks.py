"""Two processes train what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integrations.trl_ranks import RECIPES, ran
from tests.integrations.trl_runs import tiny_model

pytestmark = [
    # TRL 1.16 calls transformers 5.23 by names that it renamed.
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*rollout_func.*experimental:UserWarning"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What each of two processes ended with, for every recipe."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny_model().save_pretrained(folder / "model")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = ["--nproc_per_node", "2", "-m", "tests.integrations.trl_ranks", str(folder)]
    done = subprocess.run(
        launcher + script,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", RECIPES)
def test_two_ranks_train_what_one_does(name: str, ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    """A group torn between ranks, a selection or a controller per rank, a normaliser of one rank.

    Each would move the weights, or let the ranks' controllers drift apart.
    """
    folder, results = ranks
    alone = ran(folder, name, 1)
    for rank in results:
        torch.testing.assert_close(rank[name]["weights"], alone["weights"], atol=2e-6, rtol=1e-4)
        assert rank[name]["kept"] == alone["kept"]
        for here, there in zip(rank[name]["coefficients"], alone["coefficients"], strict=True):
            assert here == pytest.approx(there, abs=1e-5)
    assert results[0][name]["state"] == results[1][name]["state"]
    start = [p.detach() for p in tiny_model().parameters()]
    moved = max((a - b).abs().max() for a, b in zip(start, alone["weights"], strict=True))
    assert moved > 1e-3
