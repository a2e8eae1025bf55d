"""What holds for every recipe, whatever its paper changes."""

from __future__ import annotations

import re

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext import TokenStats, recipes, token_stats
from tests.recipe_runs import B, Prepared, T, loss, make_logits, make_rollout, make_values, prepare

PER_TOKEN = ("old_logp", "old_entropy", "ref_logp", "rollout_logp", "values", "teacher_logp")

STOP_GRADIENT = {"minirl", "cispo", "dppo_tv", "dppo_kl", "vespo", "ce_gppo", "erc"}
"""their gradient is on purpose not the value's slope; tests/rl has it by hand"""
WHOLE_BATCH = {"prorl, varied"}
"""their advantages are relative to all the responses that were kept"""

VARIANTS = {
    "vapo": {"value_clip": 0.2, "decay": 0.95, "whiten": False},
    "seed_grpo": {"estimator": "mc_mean", "shape": "focal", "alpha": 1.0},
    "bcpg_nsa": {"beta": -0.5},
    "kl_cov": {"variant": "verl", "penalty": "k3", "fraction": 0.2},
    "clip_cov": {"fraction": 0.2, "bounds": (0.0, 5.0), "clip_high": 0.3},
    "opo": {"scope": "batch"},
    "skywork_or1": {"gate": "current_le", "signal": "entropy", "target": 1.9, "delta": 1e-3},
    "prorl": {"version": "v2", "cosine_coef": 0.5, "cosine_on": 1},
    "high_entropy_tokens": {"variant": "trl", "fraction": 0.5},
    "w_reinforce": {"positive_weight": 0.0},
    "unlikeliness": {"form": "paper", "filter_groups": False},
    "luffy": {"teacher_probabilities": True, "clip_low": 1.0, "clip_high": 9.0},
    "steer": {"form": "exact", "weight_map": "linear"},
    "positive_reweight": {"schedule": "stage"},
    "entropic": {"denominator": "all", "confident": 0.1, "target": 2.0, "anti_windup": True},
    "sent": {"hold_rest": 1.0, "cov_fraction": 0.3, "hold_coef": 1.0},
    "deepseek_v32": {"behaviour": "trainer", "domain_kl": {1: 0.0}, "kl_coef": 0.1},
    "starter": {"fraction": 0.5, "variant": "trl"},
    "advanced": {"fraction": 0.2, "bounds": (0.0, 5.0), "target": 2.0, "confident": 0.1},
    "reinforce_pp": {"baseline": "group"},
    "masked_is": {"level": "sequence", "low": 0.9, "high": 1.1},
}
"""name → options of a variant that takes other paths than the defaults"""

COMPOSED = {
    ("dapo", "pass_at_k"): {"k": 2},
    ("w_reinforce", "steer", "entropic", "truncated_is"): {"target": 2.0, "confident": 0.1},
}

CASES = {
    **{name: (name, {}) for name in recipes.RECIPES},
    **{f"{name}, varied": (name, options) for name, options in VARIANTS.items()},
    **{"+".join(names): (names, options) for names, options in COMPOSED.items()},
}
every_recipe = pytest.mark.parametrize("case", CASES)


def _get(case, **options):
    name, own = CASES[case]
    options = {**options, **own}
    if isinstance(name, tuple):
        return recipes.compose(*name, **options)
    return recipes.get(name, **options)


def _gradients(recipe, prepared, logits, values):
    logits, values = logits.clone().requires_grad_(), values.clone().requires_grad_()
    total = loss(recipe, logits, prepared, values)
    gradients = torch.autograd.grad(total, (logits, values), allow_unused=True)
    return total.detach(), [
        torch.zeros_like(x) if g is None else g
        for x, g in zip((logits, values), gradients, strict=True)
    ]


@every_recipe
def test_no_default_device_is_relied_on(case):
    """Catches a tensor made without saying where: on "meta" it has no values."""
    logits, values, rollout = make_logits(), make_values(), make_rollout()
    recipe = _get(case, entropy_coef=0.003)
    expected = _gradients(recipe, prepare(recipe, logits, rollout), logits, values)
    recipe = _get(case, entropy_coef=0.003)
    with torch.device("meta"):
        got = _gradients(recipe, prepare(recipe, logits, rollout), logits, values)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@every_recipe
@pytest.mark.parametrize("sizes", [[1, 2, 3], [1] * B])
def test_micro_batches_add_up_to_the_mini_batch(case, sizes):
    """Catches a normaliser or a statistic taken from the micro-batch, in policy or value loss."""
    recipe, logits, values = _get(case, entropy_coef=0.003), make_logits(), make_values()
    whole = prepare(recipe, logits, make_rollout())
    expected, expected_gradients = _gradients(recipe, whole, logits, values)
    total, start = torch.zeros((), dtype=torch.float64), 0
    gradients = [torch.zeros_like(logits), torch.zeros_like(values)]
    for size in sizes:
        rows = slice(start, start + size)
        start += size
        part = Prepared(*(x.rows(rows) for x in whole))
        share, slopes = _gradients(recipe, part, logits[rows], values[rows])
        total = total + share
        for gradient, slope in zip(gradients, slopes, strict=True):
            gradient[rows] = slope
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in CASES if c not in STOP_GRADIENT])
def test_gradient_matches_finite_differences(case):
    """Through token_stats to the logits, the plan fixed; catches a detached or a doubled path."""
    recipe, logits, values = _get(case, entropy_coef=0.003), make_logits(), make_values()
    prepared = prepare(recipe, logits, make_rollout())
    _, gradients = _gradients(recipe, prepared, logits, values)
    generator = torch.Generator().manual_seed(6)
    directions = [torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in gradients]
    ahead, behind = (
        loss(recipe, logits + step * directions[0], prepared, values + step * directions[1]).item()
        for step in (1e-6, -1e-6)
    )
    expected = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    assert (ahead - behind) / 2e-6 == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert abs(expected) > 1e-4


def _all(value):
    correct = torch.full((B,), value)
    return {"correct": correct, "rewards": correct.double()}


@every_recipe
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"mask": torch.zeros(B, T, dtype=torch.bool)}, id="no token"),
        pytest.param(_all(True), id="all right"),
        pytest.param(_all(False), id="all wrong"),
        pytest.param({"rewards": torch.full((B,), 0.1).double()}, id="equal rewards"),
        pytest.param({"prompt": torch.arange(B)}, id="groups of one"),
        pytest.param({"prompt": torch.zeros(B, dtype=torch.int64)}, id="one group"),
        pytest.param(
            {"mask": torch.arange(T) < torch.tensor([4, 0, 3, 0, 4, 0])[:, None]},
            id="responses without a token",
        ),
        pytest.param(
            {"step_correct": torch.ones(B, T, dtype=torch.bool), "answers": [None] * B},
            id="no answers",
        ),
    ],
)
def test_degenerate_batches_are_defined(case, changes):
    recipe, logits, values = _get(case), make_logits(), make_values()
    prepared = prepare(recipe, logits, make_rollout(**changes))
    total, gradients = _gradients(recipe, prepared, logits, values)
    assert total.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    if "mask" in changes:
        empty = ~changes["mask"].any(-1)
        assert all(g[empty].abs().max() == 0 for g in gradients)
        assert total == 0 or not empty.all()


@every_recipe
def test_a_batch_of_nothing_gives_zero(case):
    recipe = _get(case)
    nothing = make_rollout().rows(slice(0, 0))
    prepared = prepare(recipe, make_logits()[:0], nothing)
    assert loss(recipe, make_logits()[:0], prepared, make_values()[:0]) == 0


@every_recipe
def test_padding_may_hold_anything(case):
    """Catches a mask applied as a product, in a loss, a statistic or a gradient."""
    results = []
    for filler in (0.0, torch.nan, torch.inf):
        recipe, logits, values = _get(case), make_logits(), make_values()
        rollout = make_rollout()
        spoilt = {
            field: torch.where(rollout.mask, getattr(rollout, field), filler) for field in PER_TOKEN
        }
        spoilt["step_correct"] = rollout.step_correct | ~rollout.mask
        logits = torch.where(rollout.mask[..., None], logits, filler)
        values = torch.where(rollout.mask, values, filler)
        prepared = prepare(recipe, logits, rollout.replace(**spoilt))
        total, gradients = _gradients(recipe, prepared, logits, values)
        assert all(g[~rollout.mask].abs().max() == 0 for g in gradients)
        results.append((total, *gradients))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)


@every_recipe
@pytest.mark.parametrize("when", ["from the start", "after prepare"])
def test_impossible_tokens_move_nothing(case, when):
    """A sampled token to which the policy now gives probability 0: no NaN, its row keeps still."""
    recipe, logits, values = _get(case, entropy_coef=0.003), make_logits(), make_values()
    rollout, impossible = make_rollout(), logits.clone()
    impossible[0, 0] = -torch.inf
    impossible[0, 0, (rollout.tokens[0, 0] + 1) % logits.shape[-1]] = 0.0
    prepared = prepare(recipe, impossible if when == "from the start" else logits, rollout)
    logits = impossible
    total, gradients = _gradients(recipe, prepared, logits, values)
    assert total.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[0][0, 0].abs().max() == 0


@every_recipe
def test_a_token_without_statistics_moves_nothing(case):
    """A row of logits that are all −inf: NaN in logp and entropy, before the step and in it."""
    recipe, rollout, logits = _get(case, entropy_coef=0.003), make_rollout(), make_logits()
    rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
    targets = recipe.targets(rollout)
    spoilt = [
        x.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan, dtype=x.dtype))
        for x in token_stats(logits, rollout.tokens, mask=rollout.mask, extras=True)
        if x is not None
    ]
    plan = recipe.prepare(TokenStats(*spoilt), rollout, targets)
    inputs = [x.clone().requires_grad_() for x in spoilt[:2]]
    stats = TokenStats(*inputs, *spoilt[2:])
    total = plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss)
    assert total.isfinite()
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            assert gradient.isfinite().all()
            assert gradient[0, 0] == 0


@every_recipe
def test_missing_fields_are_named(case):
    recipe = _get(case)
    complete = recipe.targets(make_rollout())
    for field in recipe.needs:
        lacking = make_rollout(**{field: None})
        message = re.escape(f"recipe {recipe.name} needs Rollout.{field}, which is None")
        with pytest.raises(ValueError, match=message):
            recipe.targets(lacking)
        with pytest.raises(ValueError, match=message):
            recipe.prepare(None, lacking, complete)


@pytest.mark.parametrize("case", [c for c in CASES if c not in WHOLE_BATCH])
def test_dropped_responses_leave_the_others_advantages_as_they_were(case):
    """Catches half a group dropped by a recipe whose advantages look at the group."""
    recipe, rollout = _get(case), make_rollout()
    kept = recipe.keep(rollout)
    assert kept.dtype == torch.bool
    among_all = recipe.targets(rollout).advantages[kept]
    assert torch.equal(recipe.targets(rollout.rows(kept)).advantages, among_all)


@every_recipe
def test_nothing_but_the_loss_carries_a_gradient(case):
    recipe = _get(case)
    rollout = make_rollout()
    attached = rollout.replace(
        **{field: getattr(rollout, field).requires_grad_() for field in PER_TOKEN}
    )
    _, targets, plan = prepare(recipe, make_logits().requires_grad_(), attached)
    held = [targets.advantages, targets.returns, plan.normalizer, plan.weights]
    held += [*plan.coefficients.values(), *plan.tokens.values()]
    assert not any(x.requires_grad for x in held if x is not None)


@every_recipe
def test_restored_recipe_continues_alike(case):
    """Catches a controller, counter or seed that a checkpoint would lose."""
    logits, rollout, cut = make_logits(), make_rollout(), 2
    metrics = {"reward": 0.5, "entropy": 1.0, "kl_reference": 0.1, "kl_old": 0.01}

    def steps(recipe, count):
        plans = []
        for _ in range(count):
            plan = prepare(recipe, logits, rollout).plan
            plans.append((plan.mask, plan.normalizer, plan.weights, plan.coefficients, plan.tokens))
            recipe.after_step(metrics)
        return plans

    expected = steps(_get(case), 5)
    first, second = _get(case), _get(case)
    steps(first, cut)
    second.load_state_dict(first.state_dict())
    for got, wanted in zip(steps(second, 5 - cut), expected[cut:], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@every_recipe
def test_hooks_never_ask_the_device(case, device):
    """FakeTensorMode refuses .item(), branching on a tensor, nonzero and boolean indexing."""
    recipe = _get(case, entropy_coef=0.003)
    example = make_rollout(dtype=torch.float32)
    with FakeTensorMode():

        def per_token(grad=False):
            return torch.empty(B, T, device=device, requires_grad=grad)

        def faked(value):
            return torch.empty(value.shape, dtype=value.dtype, device=device)

        rollout = example.replace(
            **{
                field: faked(value)
                for field, value in vars(example).items()
                if isinstance(value, torch.Tensor)
            }
        )
        rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
        kept = recipe.keep(rollout)
        targets = recipe.targets(rollout)
        stats = TokenStats(*(per_token(True) for _ in range(3)), *(per_token() for _ in range(4)))
        plan = recipe.prepare(
            TokenStats(*(x.detach() for x in stats if x is not None)), rollout, targets
        )
        per_token_loss, metrics = recipe.token_loss(stats, rollout, targets, plan)
        total = plan.aggregate(per_token_loss)
        if "values" in recipe.needs:
            value_loss, value_metrics = recipe.value_loss(per_token(True), rollout, targets)
            total = total + plan.aggregate(value_loss)
            metrics = metrics | value_metrics
        total.backward()
        assert stats.logp.grad.shape == (B, T)
        outputs = [kept, targets.advantages, per_token_loss, total, plan.normalizer]
        outputs += [*plan.tokens.values(), *plan.coefficients.values(), *metrics.values()]
        assert {x.device.type for x in outputs} == {device.type}
        assert all(x.ndim == 0 and not x.requires_grad for x in metrics.values())


@every_recipe
def test_an_optimizer_step_never_waits_for_the_gpu(case, device):
    """What a fake tensor cannot see: a copy from the host, a size read back by an operator."""
    if device.type != "cuda":
        pytest.skip("only CUDA has a device to wait for")
    recipe = _get(case, entropy_coef=0.003)
    rollout = make_rollout(dtype=torch.float32)
    rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
    targets = recipe.targets(rollout)
    logits = make_logits(dtype=torch.float32).requires_grad_()
    values = make_values(dtype=torch.float32).requires_grad_()
    for mode in ("default", "error"):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            stats = token_stats(logits.detach(), rollout.tokens, mask=rollout.mask, extras=True)
            plan = recipe.prepare(stats, rollout, targets)
            loss(recipe, logits, Prepared(rollout, targets, plan), values).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert logits.grad.isfinite().all()


def _ranked(recipe, rows, group=None):
    """Two steps, so that a controller moved by the first is seen in the second."""
    rollout = make_rollout(prompt=torch.tensor([0, 0, 0, 1, 1, 2])).rows(rows)
    logits, values = make_logits()[rows], make_values()[rows]
    rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
    targets = recipe.targets(rollout, group=group)
    stats = token_stats(logits, rollout.tokens, mask=rollout.mask, extras=True)
    for _ in range(2):
        plan = recipe.prepare(stats, rollout, targets, group=group)
    return loss(recipe, logits, Prepared(rollout, targets, plan), values)


def _worker(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    rows = slice(0, 3) if rank == 0 else slice(3, B)
    for at, case in enumerate(CASES):
        results[at, rank] = _ranked(_get(case), rows, dist.group.WORLD)
    dist.destroy_process_group()


@pytest.mark.parametrize("device", [torch.device("cpu")])  # which is all that gloo's ranks have
def test_mean_over_ranks_is_the_whole_mini_batch(tmp_path):
    """Catches a count, a mean or a selection taken over one rank's tokens alone."""
    results = torch.zeros(len(CASES), 2, dtype=torch.float64).share_memory_()
    mp.spawn(_worker, args=(tmp_path / "store", results), nprocs=2)
    for case, parts in zip(CASES, results, strict=True):
        whole = _ranked(_get(case), slice(0, B)).item()
        assert parts.mean().item() == pytest.approx(whole, abs=1e-12), case
