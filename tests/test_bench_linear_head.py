"""The benchmark of the chunked head compares like with like."""

from __future__ import annotations

import pytest
import torch

from bench.linear_head import FLOOR, Problem, measure

CPU = torch.device("cpu")
# PyTorch's own, when the first function is given to torch.compile.
pytestmark = pytest.mark.filterwarnings(r"ignore:.torch\.jit:DeprecationWarning")


def test_all_candidates_do_the_same_work() -> None:
    """Catches a candidate that is fast because it leaves out a gradient or the entropy."""
    problem = Problem(24, 16, 301, "float32", CPU)
    candidates = problem.candidates(chunk=7)
    found = {}
    for name in candidates.keys() - {"compile", "torch"}:  # one is eager's; one has no entropy
        problem.stepper(candidates[name])(0)
        found[name] = problem.hidden.grad, problem.weight.grad
    assert len(found) == 4
    for hidden, weight in found.values():
        torch.testing.assert_close(hidden, found["eager"][0], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(weight, found["eager"][1], rtol=1e-4, atol=1e-7)


def test_rows_are_of_what_was_asked_for() -> None:
    """Catches a ratio to another candidate than the bare products, and a name that is ignored."""
    sizes = (24, 16, 301, "float32")
    rows = {
        row.implementation: row for row in measure(*sizes, device=CPU, repeats=3, only=["ours"])
    }
    assert rows.keys() == {FLOOR, "ours"}
    assert rows[FLOOR].ratio == 1
    assert rows["ours"].ratio == rows["ours"].ms / rows[FLOOR].ms
    assert rows["ours"].chunk == 24
    with pytest.raises(ValueError, match=r"only: expected some of ours, .*; got their"):
        measure(*sizes, device=CPU, repeats=3, only=["their"])
