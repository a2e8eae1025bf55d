from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entropy_ext.rl.curriculum import uncertainty_weight
from entropy_ext.rl.semantic_entropy import exact_answers, semantic_entropy, sequence_score
from tests.recipe_runs import make_rollout


def _entropy(scores, clusters, **options):
    scores = torch.tensor(scores, dtype=torch.float64)
    prompt = torch.zeros(len(scores), dtype=torch.int64)
    entropy = semantic_entropy(scores, prompt, torch.tensor(clusters), **options)
    assert (entropy == entropy[0]).all()
    return entropy[0].item()


@pytest.mark.parametrize(
    ("scores", "clusters", "shannon", "mc_mean", "weight"),
    [
        ([-3.0] * 4, [0, 0, 1, 2], 1.0397208, 1.1552453, 0.9696735),
        ([-1.0, -2, -3, -3], [0, 0, 1, 2], 0.5626756, 1.7227245, 0.9833563),
        ([-0.5] * 8, list(range(8)), 2.0794415, 2.0794415, 0.9599693),
        ([-0.5] * 8, [4] * 8, 0.0, 0.0, 1.0),
    ],
)
def test_by_hand(scores, clusters, shannon, mc_mean, weight):
    """Among them a mean over clusters beyond ln 4, which Shannon's form never reaches."""
    entropy = _entropy(scores, clusters)
    assert entropy == pytest.approx(shannon, abs=1e-7)
    assert _entropy(scores, clusters, estimator="mc_mean") == pytest.approx(mc_mean, abs=1e-7)
    most = math.log(len(scores))
    factor = uncertainty_weight(torch.tensor(entropy), max_entropy=most)
    assert factor.item() == pytest.approx(weight, abs=1e-7)
    # With α = 1 it falls to a half, where all answers differ.
    halved = uncertainty_weight(torch.tensor(entropy), max_entropy=most, alpha=1.0)
    assert halved.item() == pytest.approx(1 / (1 + shannon / most), abs=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(-3000, 0), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9
    )
)
def test_agrees_with_the_definition(rows):
    """Group by group in plain Python; scores from −3000 catch an exponential that underflows."""
    scores, prompt, cluster = (list(column) for column in zip(*rows, strict=True))
    got = {
        form: semantic_entropy(
            torch.tensor(scores, dtype=torch.float64),
            torch.tensor(prompt),
            torch.tensor(cluster),
            estimator=form,
        ).tolist()
        for form in ("shannon", "mc_mean")
    }
    for i, own in enumerate(prompt):
        members = [j for j, p in enumerate(prompt) if p == own]
        top = max(scores[j] for j in members)
        total = math.log(sum(math.exp(scores[j] - top) for j in members)) + top
        logs = []
        for kind in {cluster[j] for j in members}:
            inside = [scores[j] for j in members if cluster[j] == kind]
            best = max(inside)
            logs.append(math.log(sum(math.exp(s - best) for s in inside)) + best - total)
        shannon = -sum(math.exp(p) * p for p in logs)
        assert got["shannon"][i] == pytest.approx(shannon, rel=1e-9, abs=1e-9)
        assert got["shannon"][i] <= math.log(len(logs)) + 1e-9
        assert got["mc_mean"][i] == pytest.approx(-sum(logs) / len(logs), rel=1e-9, abs=1e-9)


def test_responses_without_a_token_are_left_out():
    """Their mean of nothing must not read as probability 1; a group of them alone has entropy 0."""
    logp = torch.tensor([[-1.0, -3.0], [torch.nan, torch.nan], [-2.0, torch.nan]])
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    score = sequence_score(logp, mask)
    assert score.tolist() == [-2.0, -math.inf, -2.0]
    assert sequence_score(logp, mask, length_normalize=False).tolist() == [-4.0, -math.inf, -2.0]
    entropy = semantic_entropy(score, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert entropy.tolist() == pytest.approx([math.log(2)] * 3)
    mean = semantic_entropy(
        score, torch.zeros(3, dtype=torch.int64), torch.arange(3), estimator="mc_mean"
    )
    assert mean.tolist() == pytest.approx([math.log(2)] * 3)
    nobody = torch.full((2,), -math.inf)
    assert semantic_entropy(nobody, torch.arange(2), torch.arange(2)).tolist() == [0.0, 0.0]


def test_an_impossible_response_does_not_spoil_its_group():
    score = torch.tensor([-1.0, torch.nan, -1.0])
    entropy = semantic_entropy(score, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert entropy.tolist() == pytest.approx([math.log(2)] * 3)


def test_equal_answers_cluster_and_missing_ones_stand_alone():
    rollout = make_rollout(answers=["4", None, "4", (1, 2), None, (1, 2)])
    labels = exact_answers(rollout).tolist()
    assert labels[0] == labels[2]
    assert labels[3] == labels[5]
    assert len(set(labels)) == 4
    with pytest.raises(ValueError, match="rollout: expected answers, got None"):
        exact_answers(rollout.replace(answers=None))


def test_equal_clusters_of_other_prompts_are_apart():
    entropy = semantic_entropy(
        torch.zeros(4), torch.tensor([0, 0, 1, 1]), torch.tensor([5, 5, 5, -6])
    )
    assert entropy.tolist() == pytest.approx([0, 0, math.log(2), math.log(2)])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("inverse", [1, 1 / 1.5, 1 / 2, 1 / 3]),
        ("linear", [1, 0.5, 0, 0]),
        ("exponential", [1, math.exp(-0.5), math.exp(-1), math.exp(-2)]),
        ("focal", [1, 0.125, 0, 0]),
    ],
)
def test_shapes_by_hand(shape, expected):
    """x = 0, ½, 1, 2; catches a weight that turns negative, or NaN as a power of one."""
    entropy = torch.tensor([0.0, 1, 2, 4], dtype=torch.float64)
    weight = uncertainty_weight(entropy, max_entropy=2.0, alpha=1.0, shape=shape, gamma=3.0)
    assert weight.tolist() == pytest.approx(expected)
    neutral = uncertainty_weight(entropy, max_entropy=2.0, alpha=0.0, shape=shape)
    assert neutral.tolist() == [1.0] * 4
    alone = uncertainty_weight(entropy * 0, max_entropy=0.0, shape=shape)
    assert alone.tolist() == [1.0] * 4


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="estimator: expected one of shannon, mc_mean, got 'rao'"):
        _entropy([0.0], [0], estimator="rao")
    with pytest.raises(ValueError, match="shape: expected one of inverse, linear"):
        uncertainty_weight(torch.zeros(1), max_entropy=1.0, shape="cubic")
    with pytest.raises(ValueError, match="alpha: expected a number >= 0, got -1"):
        uncertainty_weight(torch.zeros(1), max_entropy=1.0, alpha=-1.0)
