"""The papers' figures, worked out by hand: covariance, the three selectors, STEER."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch

from entropy_ext import reference
from tests.selection import each_api, each_dtype, tensor

pytestmark = pytest.mark.isa
LOGP = [-0.05, -4.0, -0.1, -6.0, -0.2]
ADVANTAGES = [2.0, -0.5, -0.5, -0.5, -0.5]
COV = [4.04, 0.965, -0.985, 1.965, -0.935]


@each_api
@each_dtype
def test_covariance_of_five_tokens(
    api: ModuleType, dtype: torch.dtype, device: torch.device
) -> None:
    """Catches a division by a standard deviation, and means over n − 1."""
    logp, advantages = (tensor(x, device, dtype) for x in (LOGP, ADVANTAGES))
    cov = api.covariance(logp, advantages, None)
    torch.testing.assert_close(cov.double(), tensor(COV, device), rtol=0, atol=1e-6)
    assert cov.dtype == dtype


@each_api
def test_selectors_of_five_tokens(api: ModuleType, device: torch.device) -> None:
    """Clip-Cov draws one of tokens 0 and 3, each for about half of the seeds; KL-Cov takes 0."""
    cov = tensor(COV, device)
    drawn = [api.clip_cov(cov, None, seed=seed).nonzero().flatten().tolist() for seed in range(400)]
    assert all(chosen in ([0], [3]) for chosen in drawn)
    # The standard deviation of the count is 10.
    assert abs(drawn.count([0]) - 200) < 50
    assert api.kl_cov(cov, None).tolist() == [True, False, False, False, False]


@each_api
def test_covariance_of_four_tokens_off_policy(api: ModuleType, device: torch.device) -> None:
    """Of the policy being trained, not of the one that sampled."""
    logp = tensor([-0.05, -1.2, -1.5, -0.5], device)
    advantages = tensor([1.0, 1.0, -1.0, -1.0], device)
    cov = api.covariance(logp, advantages, None)
    expected = tensor([0.7625, -0.3875, 0.6875, -0.3125], device)
    torch.testing.assert_close(cov, expected, rtol=0, atol=1e-12)
    assert api.kl_cov(cov, None).tolist() == [True, False, False, False]


@each_api
@pytest.mark.parametrize(
    ("valid", "fraction", "count"),
    [
        (1, 2e-4, 1),
        (4999, 2e-4, 1),
        (9999, 2e-4, 1),
        (10000, 2e-4, 2),
        (14999, 2e-4, 2),
        (15000, 2e-4, 3),
    ],
)
def test_clip_cov_counts(
    valid: int, fraction: float, count: int, api: ModuleType, device: torch.device
) -> None:
    """Of all valid tokens, rounded down, one at least: catches a share of the candidates."""
    cov = torch.full((valid + 77,), 2.0, device=device)
    cov[: valid // 2] = 0.5
    mask = torch.ones(valid + 77, dtype=torch.bool, device=device)
    mask[-77:] = False
    selected = api.clip_cov(cov, mask, fraction=fraction, seed=0)
    assert selected.sum() == count
    assert not selected[: valid // 2].any()
    assert not selected[-77:].any()


@each_api
@pytest.mark.parametrize(("valid", "count"), [(1, 1), (100, 1), (999, 1), (1000, 2), (1500, 3)])
def test_kl_cov_counts(valid: int, count: int, api: ModuleType, device: torch.device) -> None:
    cov = torch.linspace(-2, -1, valid + 3, device=device)
    mask = torch.ones(valid + 3, dtype=torch.bool, device=device)
    mask[-3:] = False
    selected = api.kl_cov(cov, mask)
    expected = torch.zeros_like(mask)
    expected[valid - count : valid] = True
    assert torch.equal(selected, expected)


@each_api
@pytest.mark.parametrize(("valid", "count"), [(1, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_top_entropy_counts(valid: int, count: int, api: ModuleType, device: torch.device) -> None:
    """The 80/20 paper's code rounds up; by TRL's rule a fifth comes out the same."""
    entropy = torch.linspace(0.1, 1.0, valid + 2, device=device).flip(0)
    mask = torch.ones(valid + 2, dtype=torch.bool, device=device)
    mask[:2] = False
    for rule in ("exact", "quantile"):
        selected = api.top_entropy(entropy, mask, rule=rule)
        assert selected.nonzero().flatten().tolist() == list(range(2, 2 + count)), rule


@each_api
def test_top_entropy_of_ten_tokens(api: ModuleType, device: torch.device) -> None:
    """The mean loss over what is kept, as in the paper, and over all tokens, as in TRL."""
    entropy = tensor([0.1 * i for i in range(1, 11)], device)
    losses = tensor(list(range(1, 11)), device)
    kept = api.top_entropy(entropy, None)
    assert losses[kept].mean() == 9.5
    assert torch.where(kept, losses, 0.0).sum().item() / 10 == pytest.approx(1.9)
    equal = torch.ones(10, device=device)
    exact = api.top_entropy(equal, None)
    assert exact.tolist() == [True, True] + [False] * 8
    assert api.top_entropy(equal, None, rule="quantile").all()


@each_api
def test_top_entropy_case_of_trl(api: ModuleType, device: torch.device) -> None:
    entropy = tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.7, 0.8, 0.9, 1.0, 1.1, 1.2]], device)
    mask = torch.ones(2, 6, dtype=torch.bool, device=device)
    mask[1, 4:] = False
    selected = api.top_entropy(entropy, mask, rule="quantile")
    assert entropy[selected].tolist() == [0.9, 1.0]


@each_api
def test_rules_differ_away_from_a_fifth(api: ModuleType, device: torch.device) -> None:
    """Seven tokens, three tenths: three by the paper's rounding, two at the quantile or above."""
    entropy = torch.arange(7.0, device=device)
    assert api.top_entropy(entropy, None, fraction=0.3).sum() == 3
    assert api.top_entropy(entropy, None, fraction=0.3, rule="quantile").sum() == 2


STEER = {"logp": [0.9, 0.1, 0.5], "advantages": [1.0, 1.0, -1.0], "entropy": [0.5, 2.0, 0.8]}
OMEGA = [0.039464, -0.272327, -0.053426]


@each_api
@each_dtype
def test_steer_code_form(api: ModuleType, dtype: torch.dtype, device: torch.device) -> None:
    """Both maps of the three tokens, and the loss that the exponential one gives."""
    logp = tensor(STEER["logp"], device).log().to(dtype)
    advantages, entropy = (tensor(STEER[k], device, dtype) for k in ("advantages", "entropy"))
    weights = api.steer_weights(logp, logp, entropy, advantages, None)
    expected = tensor([0.968181, 0.8, 0.957167], device)
    torch.testing.assert_close(weights.double(), expected, rtol=0, atol=1e-6)
    assert weights.dtype == dtype
    loss = (-advantages * weights).mean()
    assert loss.item() == pytest.approx(-0.270338, abs=1e-6)
    linear = api.steer_weights(
        logp, logp, entropy, advantages, None, weight_map="linear", lambda_max=1.2
    )
    expected = tensor([1.2, 0.8, 1.176016], device)
    torch.testing.assert_close(linear.double(), expected, rtol=0, atol=2e-6)


@each_api
def test_steer_influences(api: ModuleType, device: torch.device) -> None:
    """|Ω| itself: with these settings a weight is exp(−|Ω|). The last token is off-policy."""
    logp = tensor([*STEER["logp"], 0.2], device).log()
    old_logp = tensor([*STEER["logp"], 0.1], device).log()
    advantages = tensor([*STEER["advantages"], 1.0], device)
    entropy = tensor([*STEER["entropy"], 1.5], device)
    weights = api.steer_weights(
        logp, old_logp, entropy, advantages, None, weight_scale=1.0, lambda_min=math.exp(-1)
    )
    expected = tensor([*OMEGA, -0.175101], device).abs()
    torch.testing.assert_close(-weights.log(), expected, rtol=0, atol=1e-6)


@each_api
def test_steer_floor(api: ModuleType, device: torch.device) -> None:
    """Where the greatest |Ω| is below 0.02, weights stay near 1."""
    # π = ½ and H = ln 2 + 0.02: |Ω| = ½·0.02·A.
    logp = tensor([0.5, 0.5], device).log()
    entropy = tensor([math.log(2) + 0.02] * 2, device)
    advantages = tensor([0.5, 0.0], device)
    weights = api.steer_weights(logp, logp, entropy, advantages, None)
    torch.testing.assert_close(weights, tensor([0.945742, 1.0], device), rtol=0, atol=1e-6)


@each_api
def test_steer_theory_figures(api: ModuleType, device: torch.device) -> None:
    """z = [1, 0, −1, ½], a = 2, A = 1: S and the exact and own-logit changes of the entropy."""
    logits = tensor([[1.0, 0.0, -1.0, 0.5]], device)
    token = torch.tensor([2], device=device)
    one = tensor([1.0], device)
    stats = api.token_stats(logits, token, extras=True)
    assert stats.entropy.item() == pytest.approx(1.1930, abs=5e-5)
    change = api.entropy_change(stats, one)
    assert change.item() == pytest.approx(0.172299, abs=5e-7)
    for form, expected in (("own_logit", 0.093266), ("exact", 0.172299)):
        weight = api.steer_weights(
            stats.logp,
            stats.logp,
            stats.entropy,
            one,
            None,
            form=form,
            weight_scale=1.0,
            lambda_min=math.exp(-1),
            collision=stats.collision,
            collision_logp=stats.collision_logp,
        )
        assert -weight.log().item() == pytest.approx(expected, abs=5e-7), form


@each_api
def test_steer_of_one_token_and_of_none(api: ModuleType, device: torch.device) -> None:
    """The token of the greatest |Ω| has λ_min; on the line alone it is the midpoint."""
    logp, entropy, a = (tensor([x], device) for x in (math.log(0.1), 2.0, 1.0))
    mask = torch.tensor([True], device=device)
    assert api.steer_weights(logp, logp, entropy, a, mask).tolist() == [0.8]
    line = {"weight_map": "linear", "lambda_max": 1.2}
    assert api.steer_weights(logp, logp, entropy, a, mask, **line).tolist() == [1.0]
    for options in ({}, line):
        assert api.steer_weights(logp, logp, entropy, a, ~mask, **options).tolist() == [0.0]
    # A = 0 everywhere: nothing to weigh down.
    assert api.steer_weights(logp, logp, entropy, 0 * a, mask).tolist() == [1.0]


@pytest.mark.parametrize(
    ("logp", "old_logp", "advantage", "clipped"),
    [
        (0.19, 0.0, 1.0, True),
        (0.18, 0.0, 1.0, False),
        (0.5, 0.0, -1.0, False),
        (-0.5, 0.0, 1.0, False),
        (-0.23, 0.0, -1.0, True),
        (-0.22, 0.0, -1.0, False),
        (0.5, 0.0, 0.0, False),
        (100.0, 0.0, 1.0, True),
    ],
)
def test_where_the_clip_binds(
    logp: float, old_logp: float, advantage: float, clipped: bool, device: torch.device
) -> None:
    """ln 1.2 = 0.182, ln 0.8 = −0.223: bound for rising good and falling bad tokens only."""
    values = (tensor([x], device) for x in (logp, old_logp, advantage))
    assert reference.clipped_tokens(*values, None).tolist() == [clipped]
