"""Support: what top-k and top-p keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from entropy_ext import Support
from entropy_ext import support as module
from tests import draws
from tests.test_support import lists_of

INF = float("inf")


def kept(logits: Tensor, **options: object) -> list[list[int]]:
    return lists_of(Support.from_top_k_top_p(logits, **options))  # type: ignore[arg-type]


def test_no_vocabulary() -> None:
    with pytest.raises(ValueError, match=r"^logits: expected at least one vocabulary column"):
        kept(torch.zeros(2, 0), top_p=0.5)


def test_top_k_keeps_ties_with_the_k_th(device: torch.device) -> None:
    """The rule of vLLM and transformers: catches topk().indices, which splits a tie at random."""
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0, -INF]], device=device)
    assert kept(logits, top_k=1) == [[0]]
    assert kept(logits, top_k=2) == [[0, 2, 3]]
    assert kept(logits, top_k=3) == [[0, 2, 3]]
    assert kept(logits, top_k=4) == [[0, 1, 2, 3]]
    # −inf is not kept though k has room for it.
    for k in (6, 100, None):
        assert kept(logits, top_k=k) == [[0, 1, 2, 3, 4]]


def test_top_p_keeps_the_smallest_prefix_that_reaches_it(device: torch.device) -> None:
    """p = (1, 2, 5)/8: catches < for ≤ at the boundary, and the token that crosses it left out."""
    logits = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64, device=device).log()
    for top_p, expected in (
        (1e-9, [2]),
        (0.624, [2]),
        (0.626, [1, 2]),
        (0.874, [1, 2]),
        (0.876, [0, 1, 2]),
        (1.0, [0, 1, 2]),
    ):
        assert kept(logits, top_p=top_p) == [expected], top_p


def test_top_p_between_equal_logits_keeps_the_lower_ids(device: torch.device) -> None:
    """As many as reach top_p and no more, by id: catches a choice left to an unstable sort."""
    assert kept(torch.zeros(1, 8, device=device), top_p=0.5) == [[0, 1, 2, 3]]
    logits = torch.full((1, 4096), -INF, device=device)
    logits[:, ::2] = 1.0
    assert kept(logits, top_p=0.25) == [list(range(0, 1024, 2))]


def test_top_p_is_of_what_top_k_left(device: torch.device) -> None:
    """p = (1, 2, 5)/8 cut to (2, 5)/7: catches a mass that is not renormalised."""
    logits = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64, device=device).log()
    assert kept(logits, top_k=2, top_p=0.71) == [[2]]
    assert kept(logits, top_p=0.71) == [[1, 2]]


def test_temperature_comes_first(device: torch.device) -> None:
    """A scalar, and one for each row: at τ = 1/2 the masses are squared."""
    logits = torch.tensor([[1.0, 2.0, 5.0]] * 2, dtype=torch.float64, device=device).log()
    assert kept(logits, top_p=0.8, temperature=0.5) == [[2], [2]]
    each = torch.tensor([0.5, 1.0], device=device)
    assert kept(logits, top_p=0.8, temperature=each) == [[2], [1, 2]]


def test_rows_follow_the_leading_dimensions(device: torch.device) -> None:
    """Slices, transposes and no leading dimension at all: catches rows of the storage."""
    logits = draws.draw_logits("randn", 12, 33, torch.float32).to(device).view(3, 4, 33)
    for view in (logits[:, :-1], logits.transpose(0, 1), logits[0, 0], logits[:0]):
        flat = view.reshape(-1, 33)
        expected = [row for z in flat for row in kept(z, top_k=5)]
        assert kept(view, top_k=5) == expected
        assert len(expected) == len(flat)


def test_masked_rows_keep_nothing(device: torch.device) -> None:
    """Padding may hold NaN, and would otherwise often be kept whole."""
    logits = torch.zeros(2, 2, 9, device=device)
    logits[0, 1] = float("nan")
    mask = torch.tensor([[True, False], [False, True]], device=device)
    assert kept(logits, top_p=0.99, mask=mask) == [list(range(9)), [], [], list(range(9))]


def test_nan_takes_no_place_among_the_k(device: torch.device) -> None:
    """Catches NaN ranked first, which leaves the row with fewer than k, or with none."""
    nan = float("nan")
    logits = torch.tensor([[nan, 1.0, 2.0, nan, 0.0], [1.0, nan, nan, nan, nan]], device=device)
    assert kept(logits, top_k=1) == [[2], [0]]
    assert kept(logits, top_k=2) == [[1, 2], [0]]
    assert kept(logits, top_k=2, top_p=0.6) == [[2], [0]]


def test_infinite_logits_are_all_there_is(device: torch.device) -> None:
    """The limit of a great number: catches a softmax of NaN, which keeps nothing."""
    logits = torch.tensor([[0.0, INF, 3.0, INF], [5.0, 1.0, INF, float("nan")]], device=device)
    both = [[1, 3], [2]]
    for options in ({}, {"top_p": 0.9}, {"top_k": 1}, {"top_k": 3, "top_p": 0.6}):
        assert kept(logits, **options) == both, options
    assert kept(logits, top_p=0.5) == [[1], [2]]  # equally likely, and lower ids come first


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_no_rows(top_p: float, device: torch.device) -> None:
    """Catches the maximum of no lengths."""
    for shape in ((0, 5), (2, 0, 5)):
        assert kept(torch.zeros(shape, device=device), top_k=2, top_p=top_p) == []


@pytest.mark.parametrize("wrong", [-1.0, 0.0, float("nan"), INF, [-1.0, 1.0], [1.0, 0.0]], ids=str)
def test_temperature_out_of_range(wrong: float | list[float], device: torch.device) -> None:
    """Catches τ < 0, which keeps the least likely, and τ = 0, which keeps nothing."""
    logits = torch.tensor([[1.0, 2.0, 5.0]] * 2, device=device)
    where = "" if isinstance(wrong, float) else rf"\[{wrong.index(min(wrong))}\]"
    message = rf"^temperature{where}: expected a positive finite number, got "
    for value in (wrong, torch.tensor(wrong, device=device)):
        if isinstance(value, list):
            continue
        with pytest.raises(ValueError, match=message):
            kept(logits, top_k=1, temperature=value)
    mask = torch.tensor([isinstance(wrong, list) and wrong[0] > 0, False], device=device)
    value = torch.tensor(wrong, device=device).expand(2)
    expected = [[2], []] if mask[0] else [[], []]
    assert kept(logits, top_k=1, temperature=value, mask=mask) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 2.5}, r"^top_k: expected an int, got 2.5$"),
        ({"top_p": "x"}, r"^top_p: expected a number, got 'x'$"),
        ({"top_p": None}, r"^top_p: expected a number, got None$"),
        ({"temperature": "x"}, r"^temperature: expected a number or a tensor, got str$"),
        ({"temperature": [1.0, 1.0]}, r"^temperature: expected a number or a tensor, got list$"),
        ({"mask": [True, True]}, r"^mask: expected a tensor, got list$"),
        ({"logits": [[0.0]]}, r"^logits: expected a tensor, got list$"),
    ],
    ids=str,
)
def test_arguments_of_the_wrong_type(options: dict[str, object], message: str) -> None:
    """Catches Python's own word on a comparison or an attribute, which names no argument."""
    with pytest.raises(TypeError, match=message):
        kept(**({"logits": torch.zeros(2, 5)} | options))  # type: ignore[arg-type]


def test_what_is_not_a_number_is_not_kept(device: torch.device) -> None:
    """Rows of −inf and NaN: an empty row, not a wrong one."""
    logits = torch.tensor([[-INF] * 3, [float("nan")] * 3, [0.0, float("nan"), -INF]])
    for options in ({"top_k": 2}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.5}, {}):
        assert kept(logits.to(device), **options) == [[], [], [0]], options


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("top_k", "top_p"), [(50, 1.0), (None, 0.9), (50, 0.9), (3, 0.5)])
def test_what_transformers_keeps(
    top_k: int | None, top_p: float, dtype: torch.dtype, device: torch.device
) -> None:
    """Against the sampler that people use: catches another rule than the documented one."""
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = draws.draw_logits("randn", 9, 2053, dtype).to(device) * 3
    logits[:, ::7] = -INF
    scores = logits.float() / 0.7
    if top_k is not None:
        scores = process.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = process.TopPLogitsWarper(top_p)(None, scores)
    expected = [(row > -INF).nonzero()[:, 0].tolist() for row in scores]
    got = kept(logits, top_k=top_k, top_p=top_p, temperature=0.7)
    # Which of several equal logits: in bfloat16 there are such at the boundary.
    for z, a, b in zip(logits.tolist(), got, expected, strict=True):
        assert a == b or dtype == torch.bfloat16
        assert sorted(z[i] for i in a) == sorted(z[i] for i in b)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows sorted one, two or all at a time: catches offsets that start anew in each chunk."""
    logits = draws.draw_logits("peaked", 7, 33, torch.float32)
    whole = kept(logits, top_k=9, top_p=0.8)
    for rows in (1, 2):
        monkeypatch.setattr(module, "_CHUNK", rows * 33)
        assert kept(logits, top_k=9, top_p=0.8) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, r"^top_k: expected at least 1.* got 0$"),
        ({"top_p": 0.0}, r"^top_p: expected .*\(0, 1\], got 0"),
        ({"top_p": 1.5}, r"^top_p: expected .* got 1.5$"),
        ({"top_p": float("nan")}, r"^top_p: expected .* got nan$"),
        ({"temperature": torch.ones(3)}, r"^temperature: expected .* \[2\], .*, got \[3\]$"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, r"^mask: expected bool \[2\], got .*\[3\]$"),
    ],
    ids=str,
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept(torch.zeros(2, 5), **options)
