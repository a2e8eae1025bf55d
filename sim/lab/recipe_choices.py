"""What is tuned of each recipe beside the learning rate, and which recipes control entropy."""

from __future__ import annotations

from typing import Any

from sim.lab.tuning import Options

__all__ = ["CHOICES", "CONTROLS"]


def _each(name: str, *values: Any) -> tuple[Options, ...]:
    return tuple({name: value} for value in values)


def _clips(*bounds: float) -> tuple[Options, ...]:
    return tuple({"clip_low": bound, "clip_high": bound} for bound in bounds)


CHOICES: dict[str, tuple[Options, ...]] = {
    "grpo": _clips(0.1, 0.4),
    "dapo": _each("clip_high", 0.2, 0.5),
    # With α = 0.05 responses of less than 20 tokens are judged by the critic alone.
    "vapo": _each("alpha", 1.0, 10.0),
    "seed_grpo": _each("alpha", 0.5, 2.0),
    "bcpg_nsa": _each("beta", 1.0, -0.5),
    "clip_cov": _each("fraction", 0.02, 0.2),
    "kl_cov": _each("fraction", 0.02, 0.2),
    "opo": _each("minibatches", 2, 4),
    "skywork_or1": ({"delta": 0.002, "maximum": 0.05}, {"delta": 0.02, "maximum": 0.5}),
    "prorl": _each("kl_coef", 0.01, 0.1),
    "high_entropy_tokens": _each("fraction", 0.5, 0.8),
    "psr": _clips(0.1, 0.4),
    "nsr": _clips(0.1, 0.4),
    "w_reinforce": _each("positive_weight", 0.3, 1.0),
    "unlikeliness": _each("beta", 0.5, 0.9),
    "luffy": _each("gamma", 0.03, 0.3),
    "dr_grpo": _clips(0.1, 0.4),
    "steer": _each("lambda_min", 0.5, 0.2),
    "positive_reweight": _each("threshold", 0.5, 1.0),
    "entropic": _each("target", 0.3, 0.6),
    "sent": ({"cov_fraction": 0.05}, {"cov_fraction": 0.05, "hold_coef": 1.0}),
    "deepseek_v32": _each("kl_coef", 0.01, 0.1),
    "minirl": ({"clip_low": 0.1, "clip_high": 0.15}, {"clip_low": 0.4, "clip_high": 0.5}),
    "starter": _each("positive_weight", 0.3, 1.0),
    "advanced": ({"target": 0.3, "fraction": 0.02}, {"target": 0.6, "fraction": 0.02}),
    "gspo": ({"clip_low": 0.03, "clip_high": 0.04}, {"clip_low": 0.2, "clip_high": 0.28}),
    "gmpo": _clips(0.2, 0.8),
    "cispo": _each("clip_high", 0.1, 0.5),
    "sapo": _each("tau_negative", 1.5, 3.0),
    "gpg": _each("minibatches", 2, 4),
    "dppo_tv": _each("threshold", 0.05, 0.3),
    "dppo_kl": _each("threshold", 0.01, 0.2),
    "dro": _each("beta", 0.01, 1.0),
    "vespo": _each("lambda_negative", 1.0, 4.0),
    "ce_gppo": _each("beta_low", 0.25, 1.0),
    "erc": tuple({"entropy_low": x, "entropy_high": x} for x in (0.15, 0.4)),
    "reinforce_pp": _each("minibatches", 1, 2),
    "rloo": _each("minibatches", 2, 4),
    "two_sided": _each("dual_clip", 1.5, 10.0),
    "truncated_is": _clips(0.1, 0.4),
    "masked_is": _clips(0.1, 0.4),
    "entropy_neutral": _each("strength", 0.5, 0.25),
}
"""Of each recipe two values of its main hyper-parameter beside the paper's."""

CONTROLS = frozenset(
    {
        "advanced",
        "ce_gppo",
        "clip_cov",
        "dapo",
        "entropic",
        "entropy_neutral",
        "erc",
        "high_entropy_tokens",
        "kl_cov",
        "positive_reweight",
        "prorl",
        "sent",
        "skywork_or1",
        "starter",
        "steer",
    }
)
"""Those made to hold entropy up, or to spend it where there is much of it."""
