"""Support: construction, row selection, validation."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entropy_ext import Support


def lists_of(support: Support) -> list[list[int]]:
    """One list of ids for each row."""
    bounds = support.offsets.tolist()
    ids = support.ids.tolist()
    return [ids[a:b] for a, b in itertools.pairwise(bounds)]


def test_lists_are_sorted_and_repeats_dropped(device: torch.device) -> None:
    """The kernels search the ids: catches a constructor that trusts the order it is given."""
    support = Support.from_lists([[5, 1, 5, 3], [], [7]], device=device)
    assert support.offsets.tolist() == [0, 3, 3, 4]
    assert support.ids.tolist() == [1, 3, 5, 7]
    assert (support.offsets.dtype, support.ids.dtype) == (torch.int64, torch.int32)
    assert support.ids.device.type == device.type
    assert lists_of(Support.from_lists([])) == []


@pytest.mark.parametrize("wrong", [-1, 2**31])
def test_an_id_that_int32_cannot_hold(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"^lists\[1\]: expected ids in .* got {wrong}$"):
        Support.from_lists([[1], [3, wrong]])


@given(
    lists=st.lists(st.lists(st.integers(0, 30), max_size=6), min_size=1, max_size=8),
    data=st.data(),
)
def test_rows(device: torch.device, lists: list[list[int]], data: st.DataObject) -> None:
    """Positions with repeats, masks and slices, as of the lists: catches ids of a neighbour."""
    support = Support.from_lists(lists, device=device)
    sets = [sorted(set(row)) for row in lists]
    places = data.draw(st.lists(st.integers(-len(lists), len(lists) - 1), max_size=9))
    index = torch.tensor(places, dtype=torch.int64, device=device)
    assert lists_of(support.rows(index)) == [sets[i] for i in places]
    chosen = data.draw(st.lists(st.booleans(), min_size=len(lists), max_size=len(lists)))
    mask = torch.tensor(chosen, device=device)
    assert lists_of(support.rows(mask)) == [
        row for row, yes in zip(sets, chosen, strict=True) if yes
    ]
    cut = slice(*data.draw(st.tuples(*[st.none() | st.integers(-9, 9)] * 2)))
    assert lists_of(support.rows(cut)) == sets[cut]


def test_rows_of_something_else() -> None:
    support = Support.from_lists([[1], [2]])
    for index in ([0], torch.tensor([0.0]), torch.tensor([[0]]), 0):
        with pytest.raises(TypeError, match=r"^index: expected "):
            support.rows(index)  # type: ignore[arg-type]


MALFORMED = {
    "below the vocabulary": ([0, 1, 2], [2, -1], r"ids\[1\]: expected .*\[0, 7\), got -1$"),
    "above the vocabulary": ([0, 0, 2], [2, 7], r"ids\[1\]: expected .*\[0, 7\), got 7$"),
    "repeated": ([0, 1, 3], [5, 2, 2], r"ids\[2\]: .*ids\[1\] = 2.*row 1.*got 2$"),
    "falling": ([0, 2, 3], [4, 1, 0], r"ids\[1\]: .*ids\[0\] = 4.*row 0.*got 1$"),
    "start": ([1, 2, 2], [1, 2], r"offsets\[0\]: expected 0, got 1$"),
    "negative": ([0, -1, 2], [1, 2], r"offsets\[1\]: expected at least .*= 0, got -1$"),
    "decreasing": ([0, 2, 1], [1, 2], r"offsets\[2\]: expected at least .*= 2, got 1$"),
    "short": ([0, 1, 1], [1, 2], r"offsets\[2\]: expected 2, the number of ids, got 1$"),
    "beyond": ([0, 3, 2], [1, 2], r"offsets\[1\]: expected at most 2, .* got 3$"),
    "far beyond": (
        [0, 1, 2**40],
        [1, 2],
        r"offsets\[2\]: expected at most 2, .* got 1099511627776$",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_validate(what: str, device: torch.device) -> None:
    """Position and value on any device: catches sets that the kernels would read out of bounds."""
    offsets, ids, message = MALFORMED[what]
    support = Support(torch.tensor(offsets), torch.tensor(ids, dtype=torch.int32)).to(device)
    with pytest.raises(ValueError, match=r"^support\." + message):
        support.validate(7)


@pytest.mark.parametrize("what", [what for what, case in MALFORMED.items() if "offsets" in case[2]])
def test_rows_of_malformed_offsets(what: str, device: torch.device) -> None:
    """Catches a word on repeats or on an index in place of the offset that is wrong."""
    offsets, ids, message = MALFORMED[what]
    support = Support(torch.tensor(offsets), torch.tensor(ids, dtype=torch.int32)).to(device)
    with pytest.raises(ValueError, match=r"^support\." + message):
        support.rows(slice(None))


def test_a_vocabulary_that_is_no_int() -> None:
    """Catches half an id let through."""
    for wrong in (4.5, None):
        with pytest.raises(TypeError, match=rf"^vocab: expected an int, got {wrong}$"):
            Support.from_lists([[1, 4]]).validate(wrong)  # type: ignore[arg-type]


def test_validate_what_is_right(device: torch.device) -> None:
    """Catches an id called wrong because the row before it ended higher."""
    Support.from_lists([[5, 6], [], [0, 6], [1]], device=device).validate(7)
    Support.from_lists([], device=device).validate(7)
    Support.from_lists([[], []], device=device).validate(7)


def test_wrong_tensors() -> None:
    """Catches int64 ids read as int32, and dimensions taken for rows."""
    offsets, ids = torch.tensor([0, 1]), torch.tensor([1], dtype=torch.int32)
    with pytest.raises(TypeError, match=r"^support.ids: expected torch.int32, got torch.int64$"):
        Support(offsets, ids.long())
    with pytest.raises(TypeError, match=r"^support.offsets: expected torch.int64"):
        Support(offsets.int(), ids)
    with pytest.raises(TypeError, match=r"^support.ids: expected a tensor, got list"):
        Support(offsets, [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^support.ids: expected one dimension, got \[1, 1\]"):
        Support(offsets, ids[None])
    with pytest.raises(ValueError, match=r"^support.offsets: expected shape \[N \+ 1\], got \[0\]"):
        Support(offsets[:0], ids[:0])
    with pytest.raises(ValueError, match=r"^support.ids: expected device cpu, got meta"):
        Support(offsets, ids.to("meta"))
