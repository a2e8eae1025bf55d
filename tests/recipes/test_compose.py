from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

from entropy_ext import recipes
from entropy_ext.recipes import PARTS, RECIPES, PromptStats, Recipe, Sampling
from entropy_ext.rl import group_zscore
from tests.recipe_cases import assert_same, case, step, table
from tests.recipe_runs import make_logits, make_rollout, prepare

OFF = {"dynamic_sampling": False, "overlong_factor": 0.0, "dual_clip": None}


def test_starter_by_hand():
    """Five tokens, one of them of high entropy: only it is learnt from, at the weight of its sign.

    Its ratio, 1.25, is within clip-higher's bound and beyond GRPO's.
    """
    correct = torch.tensor([True, False])
    rollout = case([[1, 1, 0], [1, 1, 1]], correct=correct)
    logp = [[-1.0, -1.0 + torch.tensor(1.25).log().item(), 0.0], [-1.0, -1.0, -1.0]]
    entropy = [[0.1, 2.0, 9.0], [0.3, 0.4, 0.5]]
    got = step(recipes.get("starter"), rollout, logp, entropy=entropy)
    assert got.loss == pytest.approx(-0.1 * 1.25)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    expected[0, 1] = -0.125
    torch.testing.assert_close(got.gradient, expected)
    narrow = step(recipes.get("starter", clip_high=0.2), rollout, logp, entropy=entropy)
    assert narrow.gradient.abs().max() == 0
    assert recipes.get("starter").keep(rollout).all()
    assert recipes.get("starter").shape_rewards(rollout) is rollout.rewards


def test_starter_is_its_parts():
    composed = recipes.compose("grpo", "clip_higher", "high_entropy_tokens", "w_reinforce", **OFF)
    assert_same(recipes.get("starter"), composed)
    assert (composed.clip_low, composed.clip_high, composed.minibatches) == (0.2, 0.28, 4)
    all_tokens = recipes.get("starter", fraction=1.0)
    assert_same(all_tokens, recipes.get("w_reinforce", clip_high=0.28))


def test_advanced_is_its_parts():
    parts = ("clip_cov", "entropic", "semantic_curriculum")
    one, other = recipes.get("advanced"), recipes.compose(*parts)
    for _ in range(3):
        assert_same(one, other)
    assert (other.minibatches, other.sampling.group_size, other.sampling.refill) == (8, 8, 9)
    uncontrolled = recipes.compose(*parts, kp=0.0, ki=0.0)
    assert_same(uncontrolled, recipes.get("clip_cov"))
    zeros = torch.zeros(2, dtype=torch.int64)
    known = PromptStats(zeros, zeros, semantic_entropy=torch.tensor([0.1, 1.0]))
    assert one.select_prompts(known, 0.0).tolist() == [1, 0]
    assert (
        one.keep(make_rollout()).tolist() == recipes.get("clip_cov").keep(make_rollout()).tolist()
    )


def test_advanced_with_kl_cov():
    recipe = recipes.compose("kl_cov", "entropic", "semantic_curriculum", kp=0.0, ki=0.0)
    assert_same(recipe, recipes.get("kl_cov"))
    controlled = recipes.compose("kl_cov", "entropic", "semantic_curriculum", confident=0.1)
    plan = prepare(controlled, make_logits(), make_rollout()).plan
    assert {"kl_cov", "confident"} <= plan.tokens.keys()
    assert plan.coefficients["confident"] != 0


def test_weights_of_two_parts_multiply():
    rollout, logits = make_rollout(), make_logits()
    alone = [recipes.get("steer"), recipes.get("positive_reweight", initial=0.3)]
    first, second = (prepare(r, logits, rollout).plan.weights for r in alone)
    both = recipes.compose("grpo", "steer", "positive_reweight", initial=0.3)
    torch.testing.assert_close(prepare(both, logits, rollout).plan.weights, first * second)
    assert both.needs == {"old_entropy"}
    assert both.statistics == "minibatch"


def test_penalties_and_masks_of_two_parts_both_act():
    """The controlled term on the tokens that the entropy selection leaves in the mean."""
    rollout = case([[1, 1]], old_logp=table([[-0.01, -0.01]]), correct=torch.tensor([True]))
    recipe = recipes.compose(
        "grpo", "high_entropy_tokens", "entropic", fraction=0.5, denominator="all"
    )
    got = step(recipe, rollout, entropy=[[0.5, 0.1]], advantages=[[1.0, 1.0]])
    assert got.gradient[0].tolist() == pytest.approx([-1.2, 0.0])


def test_state_of_all_parts_survives():
    names = ("dapo", "entropic", "positive_reweight")
    first, second = recipes.compose(*names), recipes.compose(*names)
    for _ in range(3):
        prepare(first, make_logits(), make_rollout())
    assert first.state_dict().keys() == {"controller", "weight"}
    second.load_state_dict(first.state_dict())
    one, other = (prepare(r, make_logits(), make_rollout()).plan for r in (first, second))
    assert torch.equal(one.weights, other.weights)
    assert one.weights.min() > 0
    assert one.coefficients == other.coefficients


def test_the_best_of_k_as_a_part():
    """DAPO's loss on what a response adds to the best of two; k = 1 is GRPO's biased z-score."""
    recipe, rollout = recipes.compose("dapo", "pass_at_k", k=2, eps=1e-3), make_rollout()
    mask = torch.ones_like(rollout.mask)
    rollout = rollout.replace(mask=mask)
    # Prompt 0 has rewards 1, 0, 1, of which every pair holds a 1; then 1, 0, 0.
    assert recipe.targets(rollout).advantages.abs().max() == 0
    rollout = rollout.replace(rewards=table([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]))
    spread = (2 / 9) ** 0.5 + 1e-3
    expected = [1 / 3 / spread, 0, -1 / 6 / spread, 0, -1 / 6 / spread, 0]
    assert recipe.targets(rollout).advantages[:, 0].tolist() == pytest.approx(expected)
    assert (recipe.clip_high, recipe.name) == (0.28, "dapo+pass_at_k")
    one = recipes.compose("grpo", "pass_at_k", k=1).targets(rollout).advantages
    scores = group_zscore(rollout.rewards, rollout.prompt, mask, unbiased=False)
    torch.testing.assert_close(one, scores, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="k: expected a number >= 1 and <= 15, got 16"):
        recipes.compose("grpo", "pass_at_k", k=16)
    # Right together, though neither is beside the other's default.
    small = recipes.compose("grpo", "pass_at_k", k=2, sampling=Sampling(group_size=3))
    assert (small.k, small.sampling.group_size) == (2, 3)
    with pytest.raises(ValueError, match="dr_grpo and pass_at_k both override targets"):
        recipes.compose("pass_at_k", "dr_grpo")


def test_the_best_of_k_in_groups_that_became_too_small():
    """A harness that samples fewer responses than the recipe was made for: all would get 0."""
    recipe = recipes.compose("grpo", "pass_at_k", k=3)
    recipe.sampling = Sampling(group_size=3)
    with pytest.raises(ValueError, match="k: expected a number <= 2, got 3"):
        recipe.targets(make_rollout())


@pytest.mark.parametrize(
    "names", [("minirl", "truncated_is"), ("masked_is", "minirl"), ("truncated_is", "masked_is")]
)
def test_one_correction_for_the_sampler(names):
    """Two would weigh each token by the square of the mismatch, or one would go unnoticed."""
    first, second = names
    with pytest.raises(ValueError, match=f"{first} and {second} both correct for the sampler"):
        recipes.compose(*names)


@pytest.mark.parametrize(
    ("part", "neutral", "recipe"),
    [
        ("clip_higher", {"clip_high": 0.2}, "grpo"),
        ("dynamic_sampling", {}, "grpo"),
        ("semantic_curriculum", {"stages": 1}, "grpo"),
        ("positive_nll", {"nll_coef": 0.0}, "grpo"),
        ("cosine_length", {}, "grpo"),
        ("sequence_mask", {"off_policy_threshold": None}, "grpo"),
        ("mean_baseline", {"aggregation": "seq-mean-token-sum-norm"}, "dr_grpo"),
    ],
)
def test_a_part_s_neutral_value(part, neutral, recipe):
    assert_same(recipes.compose("grpo", part, **neutral), recipes.get(recipe))


def test_parts_act():
    """A likelihood term of −logp over the two tokens of the right answer; a stale wrong one out."""
    rollout = case(
        [[1, 1], [1, 0]],
        correct=torch.tensor([True, False]),
        rewards=table([1.0, 0.0]),
        rollout_logp=table([[-1.0, -1.0], [-0.2, 0.0]]),
    )
    plain = step(recipes.get("grpo"), rollout)
    liked = step(recipes.compose("grpo", "positive_nll", nll_coef=0.5), rollout)
    assert liked.loss - plain.loss == pytest.approx(0.5)
    added = (liked.gradient - plain.gradient).flatten().tolist()
    assert added == pytest.approx([-0.25, -0.25, 0, 0])
    masked = step(recipes.compose("grpo", "sequence_mask"), rollout)
    assert masked.gradient[1].abs().max() == 0 < plain.gradient[1].abs().max()
    assert torch.equal(masked.gradient[0], plain.gradient[0])


def test_the_likelihood_s_mean_is_over_the_tokens_that_an_earlier_part_left():
    """Of two right tokens the sure one is out: a mean over both would halve the term."""
    rollout = case([[1, 1], [1, 1]], correct=torch.tensor([True, False]))
    recipe = recipes.compose(
        "grpo", "high_entropy_tokens", "positive_nll", fraction=0.5, nll_coef=1.0, **OFF
    )
    entropy = [[2.0, 0.1], [2.0, 0.1]]
    got = step(recipe, rollout, entropy=entropy, advantages=[[0.0, 0.0], [0.0, 0.0]])
    assert got.plan.mask.tolist() == [[True, False], [True, False]]
    assert got.gradient.tolist() == [[-1.0, 0.0], [0.0, 0.0]]


def test_one_part_is_itself_and_what_a_group_needs_is_kept():
    assert_same(recipes.compose("dapo"), recipes.get("dapo"))
    assert_same(recipes.compose("grpo", "dr_grpo"), recipes.get("dr_grpo"))
    luffy = recipes.compose("grpo", "luffy", "steer")
    assert luffy.sampling.teacher_traces == 1
    assert luffy.needs == {"teacher", "old_entropy"}
    assert luffy.name == "grpo+luffy+steer"
    derived = recipes.compose("dapo", "high_entropy_tokens")
    assert_same(derived, recipes.get("high_entropy_tokens"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("clip_cov", "kl_cov"), "kl_cov and clip_cov both override policy_loss"),
        (("grpo", "luffy", "sent"), "sent and luffy both override policy_loss"),
        (("dr_grpo", "opo"), "opo and dr_grpo both override targets"),
        (("dapo", "unlikeliness"), "unlikeliness and dapo both override shape_rewards"),
        (("dapo", "dr_grpo"), "dr_grpo has the aggregation seq-mean-token-sum-norm, dapo token"),
        (
            ("entropic", "skywork_or1"),
            "skywork_or1 and entropic each have their own controller",
        ),
        (("vapo", "steer", "bcpg_nsa"), "bcpg_nsa and vapo both override targets"),
        (("dapo", "drgrpo"), "expected one of grpo, dapo, .*got 'drgrpo'"),
    ],
)
def test_what_cannot_be_one_is_named(parts, message):
    with pytest.raises(ValueError, match=f"compose: {message}"):
        recipes.compose(*parts)


def test_an_average_that_is_given_settles_it():
    """DAPO's clip and filters, Dr. GRPO's constant divisor."""
    recipe = recipes.compose("dapo", "dr_grpo", aggregation="seq-mean-token-sum-norm")
    assert recipe.aggregation == "seq-mean-token-sum-norm"
    assert_same(recipe, recipes.get("dr_grpo", clip_high=0.28), max_length=40)


class FromRollout(Recipe):
    """A recipe of the user's own that looks at the policy before the update."""

    name = "from_rollout"
    statistics = "rollout"


def test_statistics_of_two_passes_are_not_one():
    assert recipes.compose("grpo", FromRollout).statistics == "rollout"
    message = "steer wants minibatch statistics and from_rollout wants rollout statistics"
    with pytest.raises(ValueError, match=f"compose: {message}"):
        recipes.compose("grpo", FromRollout, "steer")


def test_what_no_part_would_read_is_refused():
    """EntroPIC's own dual clip goes unread beside Clip-Cov; one that is asked for must not."""
    recipes.compose("clip_cov", "entropic")
    for options in ({"dual_clip": 3.0}, {"dual_clip": None}):
        with pytest.raises(TypeError, match="recipe clip_cov has no dual_clip"):
            recipes.compose("clip_cov", "entropic", **options)
    with pytest.raises(TypeError, match="recipe w_reinforce has no eps"):
        recipes.compose("w_reinforce", "steer", eps=1e-4)
    assert recipes.compose("w_reinforce", "entropic", dual_clip=2.0).dual_clip == 2.0


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="compose: expected a name or a recipe class, got <"):
        recipes.compose("dapo", recipes.get("steer"))
    with pytest.raises(TypeError, match="clip_hihg"):
        recipes.compose("dapo", "steer", clip_hihg=0.3)


@pytest.mark.parametrize("name", [*RECIPES, *PARTS])
@pytest.mark.parametrize("hook", ["prepare", "token_loss"])
def test_shared_hooks_start_from_super(name, hook):
    """One that did not would silently undo the parts below it in a composition."""
    for recipe in (RECIPES | PARTS)[name].__mro__:
        if recipe not in (Recipe, object) and hook in vars(recipe):
            method = inspect.unwrap(vars(recipe)[hook])
            assert f"super().{hook}(" in inspect.getsource(method), recipe


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
@pytest.mark.parametrize(
    ("parts", "options"),
    [
        (("dapo", "steer", "positive_reweight"), {"clip_high": 0.3}),
        (("clip_cov", "entropic", "semantic_curriculum"), {"target": 2.0, "fraction": 0.2}),
        (("minirl", "steer"), {"aggregation": "seq-mean-token-mean"}),
    ],
)
def test_a_composition_survives_pickling(parts, options, again):
    """Catches a class that no module holds, and a controller or an option lost with it.

    What sends recipes to worker processes, or copies a trainer, pickles them.
    """
    _check_copy(recipes.compose(*parts, **options), again)


class Own(type(recipes.compose("dapo", "steer"))):
    """A composition that a module does hold."""


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_composition_of_compositions_survives_pickling(again):
    """Catches inner classes that pickle looks for by name, and their averages lost."""
    average = "seq-mean-token-sum-norm"
    inner = type(recipes.compose("dapo", "dr_grpo", aggregation=average))
    other = type(recipes.compose("grpo", "steer"))
    twice = type(recipes.compose(inner, other, aggregation=average))
    options = {"initial": 0.3, "clip_high": 0.4, "aggregation": "token-mean"}
    _check_copy(recipes.compose(twice, "positive_reweight", **options), again)
    assert again(recipes.compose(twice)).clip_high == 0.28
    restored = again(Own(clip_high=0.4))
    assert type(restored) is Own
    assert restored.clip_high == 0.4


def _check_copy(recipe, again):
    logits, rollout = make_logits(), make_rollout()
    prepare(recipe, logits, rollout)
    restored = again(recipe)
    assert restored.name == recipe.name
    assert restored.needs == recipe.needs
    assert restored.aggregation == recipe.aggregation
    assert restored.state_dict() == recipe.state_dict()
    for _ in range(2):
        expected, got = (prepare(x, logits, rollout).plan for x in (recipe, restored))
        torch.testing.assert_close(got.weights, expected.weights)
        torch.testing.assert_close(got.tokens, expected.tokens)
        torch.testing.assert_close(got.coefficients, expected.coefficients)
    assert restored.state_dict() == recipe.state_dict()
