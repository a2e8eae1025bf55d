"""The recipes beyond the survey: what each reduces to, its own figures, its defaults."""

from __future__ import annotations

import math

import pytest
import torch

from entropy_ext import recipes
from tests.recipe_cases import assert_same, case, step, table

MASK = [[1, 1, 1], [1, 1, 0]]
ADVANTAGES = [[1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]]
MEAN = {"aggregation": "token-mean"}


def _ratios(*rows):
    """logp that has these ratios to the old −1."""
    return [[-1.0 + math.log(r) for r in row] for row in rows]


def _step(recipe, ratios=((1, 1, 1), (1, 1, 1)), **fields):
    return step(recipe, case(MASK, **fields), _ratios(*ratios), advantages=ADVANTAGES)


@pytest.mark.parametrize(
    "name",
    [
        "gspo",
        "gmpo",
        "cispo",
        "sapo",
        "dppo_tv",
        "dppo_kl",
        "dro",
        "vespo",
        "ce_gppo",
        "erc",
        "gpg",
        "two_sided",
    ],
)
def test_on_policy_all_are_reinforce(name):
    """At ρ = 1 every one has the gradient −A, averaged as the recipe says: no factor is lost."""
    recipe = recipes.get(name)
    got = _step(recipe, old_entropy=torch.ones(2, 3).double())
    plain = _step(recipes.get("grpo", aggregation=recipe.aggregation))
    torch.testing.assert_close(got.gradient, plain.gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "parent"),
    [
        ("two_sided", {}, {"dual_clip": 4.0}),
        ("two_sided", {"dual_clip": None}, {}),
        ("erc", {"entropy_low": 1.0, "entropy_high": math.inf}, {"dual_clip": 10.0, **MEAN}),
        ("truncated_is", {"low": 1.0, "high": 1.0}, {}),
    ],
)
def test_neutral_settings_are_grpo(name, options, parent):
    assert_same(recipes.get(name, **options), recipes.get("grpo", **parent))


def test_an_exact_sampler_needs_no_correction():
    from tests.recipe_runs import make_rollout

    exact = make_rollout().old_logp
    for recipe in (recipes.get("truncated_is"), recipes.get("masked_is")):
        assert_same(recipe, recipes.get("grpo"), rollout_logp=exact)


def test_gspo_of_one_token_is_grpo():
    ratios = ((1.3, 1, 1), (0.7, 1, 1))
    rollout = case([[1, 0, 0], [1, 0, 0]])
    bounds = {"clip_low": 0.2, "clip_high": 0.4}
    one, other = (
        step(recipes.get(n, **bounds), rollout, _ratios(*ratios), advantages=ADVANTAGES)
        for n in ("gspo", "grpo")
    )
    assert one.loss == pytest.approx(other.loss)
    torch.testing.assert_close(one.gradient, other.gradient)


def test_gspo_clips_responses_and_gmpo_tokens():
    """First response drifts by e^.02, e^−.01, e^.005: past GSPO's bound, within GMPO's."""
    ratios = ((math.exp(0.02), math.exp(-0.01), math.exp(0.005)), (1, 1, 1))
    gspo, gmpo = (_step(recipes.get(n), ratios) for n in ("gspo", "gmpo"))
    assert gspo.gradient[0].tolist() == [0, 0, 0]
    assert gspo.metrics["clip_high"] == 3
    assert gmpo.gradient[0].tolist() == pytest.approx([-1.0050125 / 6] * 3)
    torch.testing.assert_close(gspo.gradient[1], gmpo.gradient[1])


def test_cispo_and_ce_gppo_keep_what_the_clip_drops():
    ratios = ((1.5, 1.0, 1.0), (0.6, 1.0, 1.0))
    clipped = _step(recipes.get("grpo", clip_high=0.28, **MEAN), ratios).gradient
    assert clipped[0, 0] == clipped[1, 0] == 0
    cispo = _step(recipes.get("cispo"), ratios).gradient
    assert (cispo[0, 0].item(), cispo[1, 0].item()) == pytest.approx((-1.2 / 5, 0.6 / 5))
    kept = _step(recipes.get("ce_gppo"), ratios).gradient
    assert (kept[0, 0].item(), kept[1, 0].item()) == pytest.approx((-1.28 / 5, 0.6 / 5))
    silent = _step(recipes.get("ce_gppo", beta_low=0.0, beta_high=0.0), ratios).gradient
    torch.testing.assert_close(silent, clipped)


def test_sapo_fades():
    got = _step(recipes.get("sapo"), ((1.2, 1, 1), (1.2, 1, 1))).gradient
    assert got[0, 0].item() == pytest.approx(-1.188080 / 6, abs=1e-6)
    assert got[1, 0].item() == pytest.approx(1.186867 / 4, abs=1e-6)


@pytest.mark.parametrize(("name", "moves"), [("dppo_tv", (0, 1)), ("dppo_kl", (0, 1))])
def test_dppo_lets_rare_tokens_move(name, moves):
    """.7 → .9 is out, .01 → .03 stays though its ratio is 3; summed over the limit of 3 tokens."""
    old = table([[0.7, 0.01, 0.5], [0.5, 0.5, 0.5]]).log()
    logp = table([[0.9, 0.03, 0.5], [0.5, 0.5, 0.5]]).log().tolist()
    got = step(recipes.get(name), case(MASK, old_logp=old), logp, advantages=ADVANTAGES)
    expected = [-moves[0] * 0.9 / 0.7 / 6, -moves[1] * 3 / 6, -1 / 6]
    assert got.gradient[0].tolist() == pytest.approx(expected)


def test_dro_pulls_back():
    got = _step(recipes.get("dro"), ((math.exp(2), 1, 1), (1, 1, 1))).gradient
    assert got[0, 0].item() == pytest.approx((-1.0 + 0.1 * 2) / 5)
    assert _step(recipes.get("dro", beta=0.0), ((9, 1, 1), (1, 1, 1))).gradient[0, 0] == -0.2


def test_vespo_weighs_the_whole_response():
    """W = 1.5 and A > 0: φ = .5020 on all its tokens; W = .5 and A < 0: φ = .3398."""
    got = _step(recipes.get("vespo"), ((1.5, 1, 1), (1, 0.5, 1))).gradient
    assert got[0].tolist() == pytest.approx([-0.5020 / 5] * 3, abs=2e-5)
    assert got[1].tolist() == pytest.approx([0.3398 / 5] * 2 + [0], abs=2e-5)


def test_erc_stops_tokens_but_counts_them():
    """.94 of the old entropy is out, 1.04 stays; value and denominator as without."""
    entropy, old = [[0.94, 1.04, 1.0], [1.0, 1.06, 0.0]], torch.ones(2, 3).double()
    rollout = case(MASK, old_entropy=old)
    got = step(recipes.get("erc"), rollout, entropy=entropy, advantages=ADVANTAGES)
    plain = step(recipes.get("grpo", **MEAN), rollout, advantages=ADVANTAGES)
    assert got.loss == pytest.approx(plain.loss)
    assert got.gradient.tolist() == [
        [0, pytest.approx(-0.2), pytest.approx(-0.2)],
        [pytest.approx(0.2), 0, 0],
    ]
    assert got.metrics["stopped"] == 2


def test_gpg_case():
    rollout = case([[1]] * 4, rewards=table([1.0, 0.0, 0.0, 0.0]))
    got = step(recipes.get("gpg"), rollout)
    assert got.targets.advantages[:, 0].tolist() == [3, -1, -1, -1]
    assert got.gradient[:, 0].tolist() == [-0.75, 0.25, 0.25, 0.25]


def test_reinforce_pp_whitens_over_the_batch():
    """Two groups [1, 0] and [1, 1] of equal lengths, by hand for both baselines."""
    rollout = case(
        [[1]] * 4, rewards=table([1.0, 0.0, 1.0, 1.0]), prompt=torch.tensor([0, 0, 1, 1])
    )
    grouped = recipes.get("reinforce_pp", baseline="group").targets(rollout).advantages[:, 0]
    assert grouped.tolist() == pytest.approx([1.4142136, -1.4142136, 0, 0], abs=1e-7)
    plain = recipes.get("reinforce_pp").targets(rollout).advantages[:, 0]
    std = math.sqrt(3) / 4
    assert plain.tolist() == pytest.approx([0.25 / std, -0.75 / std, 0.25 / std, 0.25 / std])


def test_rloo_compares_with_the_others():
    rollout = case([[1, 1]] * 4, rewards=table([1.0, 0.0, 0.0, 0.0]))
    got = step(recipes.get("rloo"), rollout)
    assert got.targets.advantages[:, 0].tolist() == pytest.approx([1.0] + [-1 / 3] * 3)
    # The sum over both tokens, the mean over four responses.
    assert got.gradient[0].tolist() == pytest.approx([-0.25, -0.25])


def test_importance_weights_multiply_the_loss():
    """Ratios of trainer to sampler .25, 3, 8: truncated at 2, or masked outside .5 to 5."""
    sampler = -1.0 - table([[0.25, 3.0, 8.0], [1.0, 1.0, 1.0]]).log()
    truncated, masked = (
        _step(recipes.get(n), rollout_logp=sampler).gradient for n in ("truncated_is", "masked_is")
    )
    assert truncated[0].tolist() == pytest.approx([-0.25 / 6, -2 / 6, -2 / 6])
    assert masked[0].tolist() == pytest.approx([0, -3 / 6, 0])
    whole = recipes.get("masked_is", level="sequence", high=1.5)
    assert _step(whole, rollout_logp=sampler).gradient[0].abs().max() == 0
    both = recipes.compose("dapo", "truncated_is", "steer")
    assert both.needs == {"correct", "rollout_logp", "old_entropy"}


def test_defaults():
    attributes = {
        "gspo": {"clip_low": 3e-4, "clip_high": 4e-4, "whole_sequences": True},
        "gmpo": {"clip_low": 0.4, "clip_high": 0.4, "whole_sequences": True},
        "cispo": {"clip_low": 1.0, "clip_high": 0.2, "aggregation": "token-mean"},
        "sapo": {"tau_positive": 1.0, "tau_negative": 1.05},
        "gpg": {"scale": 1.0, "minibatches": 1},
        "dppo_tv": {"threshold": 0.15, "max_weight": 20.0},
        "dppo_kl": {"threshold": 0.05, "max_weight": 20.0},
        "dro": {"beta": 0.1},
        "vespo": {"k_positive": 2.0, "lambda_positive": 3.0, "k_negative": 3.0},
        "ce_gppo": {"clip_high": 0.28, "beta_low": 0.75, "beta_high": 1.0},
        "erc": {"entropy_low": 0.05, "entropy_high": 0.05, "dual_clip": 10.0},
        "rloo": {"minibatches": 1, "aggregation": "seq-mean-token-sum"},
        "two_sided": {"dual_clip": 4.0, "clip_high": 0.2},
        "truncated_is": {"low": 0.0, "high": 2.0},
        "masked_is": {"low": 0.5, "high": 5.0, "level": "token"},
    }
    for name, expected in attributes.items():
        recipe = recipes.get(name)
        assert {a: getattr(recipe, a) for a in expected} == expected, name
    for name, option in (("gspo", "dual_clip"), ("sapo", "clip_high"), ("rloo", "eps")):
        with pytest.raises(TypeError, match=f"recipe {name} has no {option}"):
            recipes.get(name, **{option: 2.0})
