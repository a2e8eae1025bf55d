from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext.rl.curriculum import semantic_stages

NAN = math.nan


@pytest.mark.parametrize(
    ("progress", "weights"),
    [
        (0.0, [1, 0, 1, 0, 1, 1]),
        (0.49, [1, 0, 1, 0, 1, 1]),
        (0.5, [0, 1, 1, 1, 0, 1]),
        (1.0, [0, 1, 1, 1, 0, 1]),
    ],
)
def test_halves(progress, weights):
    """Five measured, median 0.5: low then high, the median in both, the unmeasured always."""
    entropies = torch.tensor([0.1, 0.9, 0.5, 1.3, 0.0, NAN])
    assert semantic_stages(entropies, progress).tolist() == weights


def test_more_stages_move_up_and_cover_everything():
    entropies = torch.rand(50, generator=torch.Generator().manual_seed(0))
    drawn = [semantic_stages(entropies, (s + 0.5) / 5, stages=5) for s in range(5)]
    means = [(entropies * w).sum() / w.sum() for w in drawn]
    assert means == sorted(means)
    assert torch.stack(drawn).amax(0).min() == 1
    assert semantic_stages(entropies, 0.7, stages=1).min() == 1


@pytest.mark.parametrize("values", [[NAN, NAN], [0.0, 0.0, 0.0], [0.7]])
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_never_without_a_prompt(values, progress):
    assert semantic_stages(torch.tensor(values), progress).tolist() == [1] * len(values)


def test_arguments_and_no_host_sync():
    assert semantic_stages(torch.zeros(0), 0.5).tolist() == []
    with pytest.raises(ValueError, match="stages: expected a number >= 1, got 0"):
        semantic_stages(torch.zeros(2), 0.5, stages=0)
    with FakeTensorMode():
        assert semantic_stages(torch.empty(7), 0.5).dtype == torch.float32
