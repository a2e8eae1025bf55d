from __future__ import annotations

import pytest
import torch

from entropy_ext import Support
from entropy_ext.rl import Rollout


class Rows:
    def __init__(self, index):
        self.index = index

    def rows(self, index):
        return Rows(self.index[index])


def _rollout(**changes):
    fields = {
        "tokens": torch.arange(12).reshape(4, 3),
        "mask": torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=torch.bool),
        "rewards": torch.tensor([0.0, 1.0, 2.0, 3.0]),
        "prompt": torch.tensor([5, 5, 6, 6]),
        "old_logp": -torch.arange(12.0).reshape(4, 3),
        "max_length": 3,
        "step": 2,
        "progress": 0.5,
    }
    return Rollout(**(fields | changes))


def test_rows_picks_the_same_sequences_of_every_field():
    """Catches a field left unsliced: later stages would pair one response with another's data."""
    rollout = _rollout(
        values=torch.arange(12.0).reshape(4, 3) * 10,
        correct=torch.tensor([False, True, False, True]),
        answers=["a", None, "c", "d"],
        support=Rows(torch.arange(12)),
    )
    got = rollout.rows(torch.tensor([3, 1]))
    assert got.tokens.tolist() == [[9, 10, 11], [3, 4, 5]]
    assert got.mask.tolist() == [[True, True, False], [True, False, False]]
    assert got.rewards.tolist() == [3.0, 1.0]
    assert got.prompt.tolist() == [6, 5]
    assert got.old_logp[0, 0] == -9
    assert got.values[1].tolist() == [30.0, 40.0, 50.0]
    assert got.correct.tolist() == [True, True]
    assert got.answers == ["d", None]
    assert got.support.index.tolist() == [9, 10, 11, 3, 4, 5]
    assert (got.max_length, got.step, got.progress) == (3, 2, 0.5)
    assert got.ref_logp is None


def test_rows_by_mask_and_by_slice():
    rollout = _rollout()
    by_mask = rollout.rows(torch.tensor([False, True, True, False]))
    assert torch.equal(by_mask.tokens, rollout.rows(slice(1, 3)).tokens)
    assert by_mask.tokens.tolist() == [[3, 4, 5], [6, 7, 8]]


def test_replace_leaves_the_original():
    rollout = _rollout()
    assert rollout.replace(rewards=torch.ones(4)).rewards.tolist() == [1, 1, 1, 1]
    assert rollout.rewards.tolist() == [0, 1, 2, 3]
    assert rollout.lengths.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rewards": torch.zeros(3)}, ValueError, r"rewards: expected shape \[4\], got \[3\]"),
        ({"mask": torch.ones(4, 3)}, TypeError, "mask: expected torch.bool, got torch.float32"),
        ({"tokens": torch.zeros(4, 3)}, TypeError, "tokens: expected torch.int64"),
        ({"ref_logp": torch.zeros(4, 2)}, ValueError, r"ref_logp: expected shape \[4, 3\]"),
        ({"correct": torch.zeros(4)}, TypeError, "correct: expected torch.bool"),
        ({"answers": ["a"]}, ValueError, "answers: expected 4, got 1"),
        ({"progress": 1.5}, ValueError, "progress: expected a number >= 0 and <= 1, got 1.5"),
        ({"old_logp": None}, TypeError, "old_logp: expected a tensor, got NoneType"),
        ({"max_length": 1.5}, TypeError, "max_length: expected an integer, got 1.5"),
        ({"step": 0.5}, TypeError, "step: expected an integer, got 0.5"),
        ({"answers": ["a", [1], "c", None]}, TypeError, r"answers\[1\]: .* hashable .*, got list"),
        ({"support": 3}, TypeError, "support: expected a Support, got int"),
    ],
)
def test_wrong_fields_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        _rollout(**changes)


@pytest.mark.parametrize("rows", [4, 11, 99])
def test_support_of_another_layout_is_refused(rows, device):
    """Catches rows that `Rollout.rows` would then take from other tokens without a word."""
    with pytest.raises(ValueError, match=rf"support: expected 12 rows for .*\[4, 3\], got {rows}"):
        _rollout(support=Support.from_lists([[0, 1]] * rows, device=device))
    whole = _rollout(support=Support.from_lists([[i] for i in range(12)], device=device))
    assert whole.rows(slice(2, 3)).support.ids.tolist() == [6, 7, 8]
