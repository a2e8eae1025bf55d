"""Tensors without values, and where memory comes from, when ranks choose together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import entropy_ext
from entropy_ext import CovarianceMoments, clip_cov, kl_cov, steer_weights, top_entropy
from tests.distributed.threads import ThreadGroup, threads_for_processes


@pytest.fixture
def group() -> Iterator[ThreadGroup]:
    with threads_for_processes():
        yield ThreadGroup(1)


def alone(group: ThreadGroup, job: Callable[[], Any]) -> Any:
    """What the only rank of the group returns."""
    return group.run(lambda _: job())[0]


def together(x: Tensor, ids: Tensor, group: Any) -> list[Tensor]:
    """Everything that takes a group."""
    mask = torch.ones_like(x, dtype=torch.bool)
    return [
        clip_cov(x, mask, fraction=0.5, seed=3, token_ids=ids, group=group),
        kl_cov(x, mask, fraction=0.5, token_ids=ids, group=group),
        top_entropy(x, mask, fraction=0.5, token_ids=ids, group=group),
        steer_weights(-x, -x, x, x, mask, group=group),
    ]


def test_scratch_is_where_the_values_are(group: ThreadGroup, device: torch.device) -> None:
    """Under another default device: catches scratch without memory, which crashed the process."""
    x = torch.linspace(0.5, 4.0, 40, device=device)
    ids = torch.arange(40, device=device)
    expected = alone(group, lambda: together(x, ids, group))

    def elsewhere() -> list[Tensor]:
        # The default device is the thread's.
        with torch.device("meta"):
            return together(x, ids, group)

    for a, b in zip(alone(group, elsewhere), expected, strict=True):
        assert torch.equal(a, b)


def test_bad_tokens_are_found_under_another_default_device() -> None:
    """Catches a position that is turned into an index on the default device."""
    x = torch.zeros(2, 3)
    x[1, 2] = torch.nan
    with torch.device("meta"), pytest.raises(ValueError, match=r"^cov\[1, 2\]: "):
        kl_cov(x, None)
    with torch.device("meta"):
        assert CovarianceMoments().sums.device.type == "cpu"


CALLS: dict[str, Callable[[Tensor, Tensor, Any], object]] = {
    "cov": lambda x, ids, group: kl_cov(x, None, token_ids=ids, group=group),
    "entropy": lambda x, ids, group: top_entropy(x, None, token_ids=ids, group=group),
    "logp": lambda x, ids, group: steer_weights(x, x, x, x, None, group=group),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ["fake", "meta"])
def test_tensors_without_values(name: str, kind: str, group: ThreadGroup) -> None:
    """Catches addresses of fake tensors handed to the kernels, which crashed the process."""
    message = rf"^{name}: expected a real tensor, as group= exchanges values"

    def job() -> None:
        with torch.device("meta") if kind == "meta" else FakeTensorMode():
            CALLS[name](torch.zeros(3), torch.arange(3), group)

    with pytest.raises(ValueError, match=message):
        alone(group, job)


def test_one_fake_tensor_among_real_ones(group: ThreadGroup) -> None:
    """Catches a check of the values alone."""
    with FakeTensorMode() as mode:
        pass
    ids = mode.from_tensor(torch.arange(3))
    message = r"^token_ids: expected a real tensor"
    with pytest.raises(ValueError, match=message):
        alone(group, lambda: kl_cov(torch.zeros(3), None, token_ids=ids, group=group))


def test_moments_of_fake_tensors(group: ThreadGroup) -> None:
    """Catches sums without values sent to the other ranks."""

    def job() -> None:
        with FakeTensorMode():
            moments = CovarianceMoments()
            moments.update(torch.zeros(3), torch.zeros(3), None)
            with pytest.raises(ValueError, match=r"expected a real tensor"):
                moments.all_reduce(group)  # type: ignore[arg-type]

    alone(group, job)


SELECTORS: dict[str, Callable[..., Tensor]] = {
    "clip_cov": lambda x, ids, **more: clip_cov(
        x, None, fraction=0.5, bounds=(-1.0, 9.0), seed=0, token_ids=ids, **more
    ),
    "kl_cov": lambda x, ids, **more: kl_cov(x, None, fraction=0.5, token_ids=ids, **more),
    "top_entropy": lambda x, ids, **more: top_entropy(x, None, fraction=0.5, token_ids=ids, **more),
}


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("ranks", [0, 1, 2])
def test_ids_that_repeat(name: str, ranks: int) -> None:
    """One id for six equal tokens, three wanted: catches all of them chosen without a word.

    Over two ranks each holds three: catches a count of this rank's own.
    """
    select, x, ids = SELECTORS[name], torch.ones(6), torch.zeros(6, dtype=torch.int64)
    message = r"^token_ids: expected unique ids, .* 3 too many"
    if ranks == 0:
        with pytest.raises(ValueError, match=message):
            select(x, ids)
        return
    with threads_for_processes():
        group, each = ThreadGroup(ranks), 6 // ranks
        said = group.run(lambda rank: error_of(lambda: select(x[:each], ids[:each], group=group)))
    for one in said:
        assert one.startswith("token_ids: expected unique ids")
        assert "3 too many" in one


def error_of(job: Callable[[], object]) -> str:
    try:
        job()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", SELECTORS)
def test_ids_that_repeat_where_it_does_no_harm(name: str) -> None:
    """Off the mask, or all or none of them chosen: catches an error for padding's ids."""
    x, ids = torch.ones(6), torch.tensor([0, 1, 2, 9, 9, 9])
    mask = ids < 9
    options: dict[str, Any] = {"seed": 0, "bounds": (-1.0, 9.0)} if name == "clip_cov" else {}
    function = getattr(entropy_ext, name)
    assert function(x, mask, fraction=0.7, token_ids=ids, **options).sum() >= 2
    assert function(x, None, fraction=1.0, token_ids=ids, **options).all()
    if name != "clip_cov":
        values = torch.tensor([3.0, 2.0, 2.5, 1.0, 1.0, 1.0])
        chosen = function(values, None, fraction=0.5, token_ids=ids)
        assert chosen.tolist() == [True] * 3 + [False] * 3


def test_equal_values_of_the_quantile_need_no_ids() -> None:
    """Its ties are all in: catches them taken for ids that repeat."""
    ids = torch.zeros(6, dtype=torch.int64)
    assert top_entropy(torch.ones(6), None, rule="quantile", token_ids=ids).all()
