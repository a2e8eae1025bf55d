"""What the token covariance and the STEER forms say of each token's entropy change."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sim.covariance.command as command
from entropy_ext import clip_cov, kl_cov, token_stats
from sim.__main__ import app
from sim.covariance import changes
from sim.covariance.changes import FORMS, SELECTORS, Forecast, forecast, true_changes
from sim.covariance.measures import captured, compare, greatest, measure, relative_error, spearman
from sim.covariance.policies import Sizes, points

SMALL = Sizes(prompts=24, group=8, length=6, actions=20)


@pytest.fixture(scope="module")
def small_points():
    return list(points(SMALL, [0, 30], seed=1))


def _literal_changes(point, eta):
    """H(softmax(z + η ρ A (e − π))) − H(softmax(z)) of every valid token, in a plain loop."""
    result = []
    for p, g, t in point.mask.nonzero().tolist():
        z, token = point.logits[p, t], point.tokens[p, g, t]
        ratio = z.softmax(-1)[token] / point.old_logits[p, t].softmax(-1)[token]
        direction = -z.softmax(-1)
        direction[token] += 1.0
        moved = z + eta * ratio * point.advantages[p, g, t] * direction
        before, after = (torch.special.entr(x.softmax(-1)).sum() for x in (z, moved))
        result.append(float(after - before))
    return np.array(result)


@pytest.mark.parametrize("eta", [0.01, 1.0])
def test_true_changes_are_those_of_the_softmax_step(small_points, eta, monkeypatch):
    """Catches a state or a token of another response, a lost ratio, a chunk's edge."""
    monkeypatch.setattr(changes, "CHUNK_ELEMENTS", 7 * SMALL.actions)
    for point in small_points:
        np.testing.assert_allclose(
            true_changes(point, eta), _literal_changes(point, eta), rtol=1e-9, atol=1e-13
        )


def test_points_are_what_they_are_called(small_points):
    """Catches a run that does not learn, a ratio of 1 off the policy, groups without signal."""
    by_name = {point.name: point for point in small_points}
    assert list(by_name) == [
        "random",
        "peaked",
        "run, 0 updates",
        "run, 0 updates, off-policy",
        "run, 30 updates",
        "run, 30 updates, off-policy",
    ]
    entropy = {name: forecast(point, 0).entropy for name, point in by_name.items()}
    assert entropy["run, 30 updates"] < 0.8 * entropy["run, 0 updates"]
    assert entropy["peaked"] < 0.7 * entropy["random"]
    for name, point in by_name.items():
        assert torch.equal(point.logits, point.old_logits) == ("off-policy" not in name)
        assert point.mask.any()
        assert (point.advantages.abs() > 0.1)[point.mask].all()
        assert (point.advantages == point.advantages[..., :1]).all()
        group_mean = point.advantages[point.mask[:, 0, 0]].mean(1)
        assert group_mean.abs().max() < 1e-12


def test_updates_raise_the_reward():
    """Catches an update of the wrong sign: entropy would fall by it too."""
    sizes = Sizes(prompts=64, group=16, length=4, actions=10)
    before, _, after, _ = list(points(sizes, [0, 60], seed=2))[2:]
    values = torch.rand(64, 4, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start, end = ((p.logits.softmax(-1) * values**3).sum(-1).mean() for p in (before, after))
    assert end > start + 0.2


def test_advantages_go_to_the_responses_that_earned_them():
    """Catches tokens that carry another response's advantage: the correlation would be ±0.02."""
    sizes = Sizes(prompts=200, group=16, length=3, actions=20)
    random = torch.Generator().manual_seed(1)
    values = torch.rand(200, 3, 20, generator=random, dtype=torch.float64) ** 3
    point = next(points(sizes, [], seed=1))
    value = values[:, None].expand(-1, 16, -1, -1).gather(-1, point.tokens[..., None])
    quality = value[..., 0].mean(-1)[point.mask[..., 0]]
    x = torch.stack([quality, point.advantages[..., 0][point.mask[..., 0]]])
    assert torch.corrcoef(x)[0, 1] > 0.15


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_form_wins_everywhere(seed):
    """The claim of docs/derivations.md: nearest in rank, error and captured change, at any point.

    Its error is of first order in η; the others' does not vanish.
    """
    for point in points(Sizes(prompts=48, group=8, length=8, actions=64), [0, 20, 60], seed):
        fine, middling = measure(point, [1e-4, 1e-2], seed)
        exact = fine.forms[-1]
        assert exact.form == "exact"
        assert exact.rank_size > 0.9999
        assert exact.rank_signed > 0.9999
        assert exact.relative_error < 1e-3
        assert middling.forms[-1].relative_error == pytest.approx(
            100 * exact.relative_error, rel=0.2
        )
        for form in fine.forms[:-1]:
            assert form.rank_size < 0.999
            assert form.relative_error > 0.3
            assert all(x <= y + 1e-12 for x, y in zip(form.shares, exact.shares, strict=True))


def test_the_best_constant_of_the_exact_form_is_the_step(small_points):
    """Catches a factor: ρ, the group size, a sign. Rank correlations would not see it."""
    for point in small_points:
        truth = true_changes(point, 1e-5)
        change = forecast(point, 0).changes["exact"]
        assert (change @ truth) / (change @ change) == pytest.approx(1e-5, rel=1e-3)


def test_forms_are_the_formulas(small_points):
    """What is read off the weights, with sign: catches a scale, a clamp, a swapped entropy."""
    for point in small_points:
        shared = [
            table[:, None].expand(-1, point.tokens.shape[1], -1, -1)
            for table in (point.logits, point.old_logits)
        ]
        logp, old_logp = (
            table.log_softmax(-1).gather(-1, point.tokens[..., None])[..., 0] for table in shared
        )
        entropy, old_entropy = (torch.special.entr(x.softmax(-1)).sum(-1) for x in shared)
        a, p, ratio = point.advantages, logp.exp(), (logp - old_logp).exp()
        valid = point.mask
        centred = [x - x[valid].mean() for x in (logp, a)]
        expected = {
            "covariance": -centred[0] * centred[1],
            "STEER, code": -ratio * a * (1 - p) * (logp + old_entropy),
            "STEER, own logit": -ratio * a * p * (1 - p) * (logp + entropy),
        }
        known = forecast(point, 0).changes
        assert tuple(known) == FORMS
        for form, change in expected.items():
            # Weights near 1 leave an absolute error of an ulp of 1; code clamps π to 1 − 1e-8.
            np.testing.assert_allclose(
                known[form], change[valid].numpy(), rtol=1e-7, atol=3e-7, err_msg=form
            )


def test_selections_are_the_library_s(small_points):
    """Catches a selector under another's name, a fraction of its own, masked tokens counted."""
    for point in small_points:
        known = forecast(point, seed=5)
        assert tuple(known.picked) == SELECTORS
        count = int(point.mask.sum())
        cov = torch.zeros(point.mask.shape, dtype=torch.float64)
        cov[point.mask] = -torch.from_numpy(known.changes["covariance"])
        for draw, drawn in enumerate(known.picked["Clip-Cov"]):
            expected = clip_cov(cov, point.mask, seed=5 + draw)
            assert (drawn == expected[point.mask].numpy()).all()
        assert draw == changes.DRAWS - 1
        (kl,) = known.picked["KL-Cov"]
        assert (kl == kl_cov(cov, point.mask)[point.mask].numpy()).all()
        entropy = token_stats(
            point.logits[:, None].expand(-1, SMALL.group, -1, -1), point.tokens
        ).entropy[point.mask]
        top = torch.from_numpy(known.picked["top entropy"][0])
        assert top.sum() == int(0.2 * count + 0.9999)
        assert entropy[top].min() >= entropy[~top].max()


def test_random_selectors_are_averaged():
    """Means over the draws, by hand: catches one draw's handful of tokens taken for the method."""
    truth = np.array([-1.0, 2.0, -3.0, 4.0])
    draws = np.array([[1, 0, 0, 0], [0, 0, 1, 0]], dtype=bool)
    known = Forecast({"exact": truth}, {"Clip-Cov": draws}, 0.5)
    (result,) = compare("by hand", 0.1, known, truth).selectors
    assert result == ("Clip-Cov", 1, 0.2, 0.4, 0.25, 0.5)


def test_spearman_by_hand():
    """Catches ordinal ranks of ties, Pearson's correlation of values, a lost sign."""
    x = np.array([1.0, 100.0, 2.0, 3.0])
    assert spearman(x, np.array([0.0, 9.0, 8.0, 8.5])) == pytest.approx(1.0)
    assert spearman(x, -(x**3)) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, squares 4.5 and 5.
    tied = spearman(np.array([0.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert tied == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))
    assert np.isnan(spearman(np.ones(3), np.arange(3.0)))


def test_shares_by_hand():
    """Catches the least instead of the greatest, a share of tokens, a count of 0."""
    weight = np.array([1.0, 2.0, 3.0, 4.0])
    assert captured(greatest(weight, 0.5), weight) == pytest.approx(0.7)
    assert captured(greatest(-weight, 0.5), weight) == pytest.approx(0.3)
    assert greatest(weight, 1e-9).tolist() == [False, False, False, True]
    assert greatest(np.zeros(4), 0.5).tolist() == [True, True, False, False]


def test_relative_error_by_hand():
    """Catches an error that depends on the scale or the sign of the prediction."""
    truth = np.array([3.0, 4.0])
    assert relative_error(-7.0 * truth, truth) == pytest.approx(0.0, abs=1e-12)
    assert relative_error(np.array([1.0, 0.0]), truth) == pytest.approx(0.8)
    assert relative_error(np.zeros(2), truth) == 1.0


def _run(*arguments):
    sizes = ["--prompts", 12, "--group", 6, "--length", 5, "--actions", 12]
    return CliRunner().invoke(app, ["covariance", *map(str, sizes), *map(str, arguments)])


def _rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_command_writes_what_it_measured(tmp_path):
    """Catches rows that are lost, doubled or of another run, and plots that are not written."""
    result = _run("--steps", "3,0", "--etas", "1e-2,1e-3", "--seed", 4, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    expected = [
        measurement
        for point in points(Sizes(12, 6, 5, 12), [0, 3], 4)
        for measurement in measure(point, [1e-2, 1e-3], 4)
    ]
    assert len(expected) == 6 * 2
    forms, selectors = _rows(tmp_path / "forms.csv"), _rows(tmp_path / "selectors.csv")
    flat = [(m, form) for m in expected for form in m.forms]
    assert len(forms) == len(flat)
    for row, (m, form) in zip(forms, flat, strict=True):
        assert (row["point"], row["form"]) == (m.point, form.form)
        assert [float(row[k]) for k in ("eta", "tokens", "entropy")] == [m.eta, m.tokens, m.entropy]
        assert float(row["rank_size"]) == form.rank_size
        assert float(row["relative_error"]) == form.relative_error
        assert float(row["share_of_top_0.002"]) == form.shares[1]
    picked = [(m, selector) for m in expected for selector in m.selectors]
    for row, (m, selector) in zip(selectors, picked, strict=True):
        assert (row["point"], row["selector"]) == (m.point, selector.selector)
        assert (int(row["tokens"]), int(row["picked"])) == (m.tokens, selector.tokens)
        assert float(row["share"]) == selector.share
        assert float(row["falls"]) == selector.falls
    for name in ("forms.png", "predictions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert f"{expected[0].forms[1].rank_size:.4f}" in result.output
    assert "η = 0.01" in result.output


def test_interrupt_keeps_what_was_finished(tmp_path, monkeypatch):
    """Catches results that are only written, or only shown, at the very end."""

    def interrupted(point, etas, seed):
        if point.name.startswith("run"):
            raise KeyboardInterrupt
        return measure(point, etas, seed)

    monkeypatch.setattr(command, "measure", interrupted)
    result = _run("--out", tmp_path)
    assert result.exit_code == 130, result.output
    assert "Interrupted" in result.output
    assert {row["point"] for row in _rows(tmp_path / "forms.csv")} == {"random", "peaked"}
    assert (tmp_path / "predictions.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1,-2"], "expected whole numbers from 0 to 10000, comma-separated; got '-2'"),
        (["--steps", "10001"], "got '10001'"),
        (["--etas", "1e-3,2"], "expected numbers from 1e-06 to 1, comma-separated; got '2'"),
        (["--etas", "nan"], "got 'nan'"),
        (["--group", "1"], "--group"),
        (["--seed", "-1"], "--seed"),
        (["--out", __file__], "--out"),
        (["--out", f"{__file__}/folder"], "--out"),
    ],
)
def test_bad_options_are_named(arguments, message, tmp_path, monkeypatch):
    """Catches options that end in a traceback, or in a run of something else."""
    monkeypatch.chdir(tmp_path)
    result = _run(*arguments)
    assert result.exit_code == 2, result.output
    flat = " ".join(result.output.replace("│", " ").split())
    assert message in flat
    assert not list(tmp_path.iterdir())
