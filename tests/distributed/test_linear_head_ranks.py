"""The chunked head on two processes: shards of its weight, parts of a batch, and failures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from entropy_ext import linear_token_stats, recipes, token_stats
from tests.distributed import linear_jobs as jobs
from tests.distributed.processes import run_ranks
from tests.recipe_runs import make_rollout


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of all jobs on both ranks."""
    return run_ranks(jobs.everything, 2, tmp_path_factory.mktemp("ranks"))


def test_ranks_that_do_not_fit_are_all_told(ranks: list[Any]) -> None:
    """Catches statistics merged from columns that count twice, from hidden states or batches of
    two sizes (where gloo would end the process), and a weight in pieces taken for a whole one."""
    for results in ranks:
        found = results["refusals"]
        assert found["tokens"] == "tokens: expected the same number on every rank, got [2, 3]"
        assert found["hidden"] == "hidden: expected the same size D on every rank, got [4, 5]"
        assert "columns of their own, got [(0, 3), (2, 5)]" in found["overlap"]
        assert found["a_gap"] == "tokens[0]: expected a column that some rank holds, got 3"
        assert "local_weight: expected a DTensor with Shard(0)" in found["not_by_rows"]
        assert "expected none with a DTensor" in found["known_already"]
        assert "weight: expected a plain tensor, got a DTensor" in found["in_pieces"]


def test_a_rank_that_fails_does_not_hang_the_other(ranks: list[Any]) -> None:
    """Catches a wait without end: the other rank fails at the group's timeout of two seconds (the
    processes of this test would be given up after five minutes)."""
    waiting, failed = (results["one fails"] for results in ranks)
    assert failed["forward"] == "ValueError: vocab_start: expected at least 0, got -1"
    assert failed["backward"] == "ValueError: between forward and backward"
    for message in waiting.values():
        assert message.startswith("RuntimeError")
        assert "Timed out waiting 2000ms" in message


def test_shards_equal_the_whole(ranks: list[Any]) -> None:
    """Catches a rank without rows that raises alone or forgets the others' gradient, and a DTensor
    whose rows are taken for the wrong ids."""
    whole = jobs.head_problem()
    names = ("hidden", "weight", "bias")
    hidden, weight, bias = (whole[name].requires_grad_() for name in names)
    stats = linear_token_stats(hidden, weight, whole["tokens"], bias=bias)
    jobs.head_loss(stats).backward()
    truth = [stats.logp.detach(), hidden.grad, weight.grad, bias.grad]
    for results in ranks:
        for ours, expected in zip(results["dtensor"], truth, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)
        for i in (0, 1):
            torch.testing.assert_close(results["empty"][i], truth[i], rtol=1e-12, atol=1e-13)
    for i in (2, 3):
        together = torch.cat([results["empty"][i] for results in ranks])
        torch.testing.assert_close(together, truth[i], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", jobs.RECIPES)
def test_parts_of_a_batch_equal_the_whole(name: str, wrapper: str, ranks: list[Any]) -> None:
    """Gradients of two ranks with four and two sequences, in two micro-batches each, against one
    process that stores the logits of all. Catches a normaliser or a selection of one rank's own
    tokens, sums where wrappers average, and gradients that a wrapper does not see."""
    recipe = recipes.get(name, **jobs.RECIPES[name])
    rollout = make_rollout().rows(torch.tensor([*jobs.SEQUENCES[0], *jobs.SEQUENCES[1]]))
    policy = jobs.Policy()
    logits = policy.head(policy.trunk(jobs.features_of(rollout)))
    stats = token_stats(logits, rollout.tokens, mask=rollout.mask)
    targets = recipe.targets(rollout)
    plan = recipe.prepare(
        type(stats)(*(None if x is None else x.detach() for x in stats)), rollout, targets
    )
    plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss).backward()
    for results in ranks:
        for ours, parameter in zip(results[wrapper][name], policy.parameters(), strict=True):
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-10, atol=1e-12)
            assert parameter.grad.abs().max() > 1e-3
