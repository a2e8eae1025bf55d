"""The hook over ranks, and the plugin in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.processes import run_ranks

pytest.importorskip("verl", reason="verl is not installed: `make test-verl` runs these")


def test_ranks_choose_and_average_as_one(tmp_path: Path) -> None:
    """Would catch a choice per rank, a controller per rank, and a mean of unequal means."""
    from tests.integrations.verl_ranks import OPTIONS, gradients

    alone = gradients({}, 0)
    for found in run_ranks(gradients, 2, tmp_path):
        for name in OPTIONS:
            torch.testing.assert_close(found[name], alone[name], rtol=2e-5, atol=1e-6)


def test_plugin_registers_in_a_process_that_only_imports_verl() -> None:
    """Would catch a plugin that needs more of verl than is there while verl is being imported."""
    program = (
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn\n"
        "from verl.workers.engine import EngineRegistry\n"
        "print(get_policy_loss_fn('entropy_ext/dapo').__name__)\n"
        "print(get_adv_estimator_fn('entropy_ext/dapo').__name__)\n"
        "print(EngineRegistry.new.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "VERL_USE_EXTERNAL_MODULES": "entropy_ext.integrations.verl.plugin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["entropy_ext_dapo", "entropy_ext_dapo", "hooked_new"]
