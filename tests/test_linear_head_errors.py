"""What the chunked head refuses, and by which name."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from entropy_ext import linear_token_loss, linear_token_stats
from tests.linear_heads import B, D, T, V, draw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(V, D + 1)}, "weight: expected shape [V, 24]"),
        ({"weight": torch.zeros(V, D, dtype=torch.float64)}, "weight: expected hidden's"),
        ({"bias": torch.zeros(V - 1)}, "bias: expected shape [501]"),
        ({"tokens": torch.zeros(B, T + 1, dtype=torch.int64)}, "tokens: expected shape [3, 7]"),
        ({"tokens": torch.zeros(B, T)}, "tokens: expected int64"),
        ({"mask": torch.ones(B, T)}, "mask: expected bool"),
        ({"chunk_tokens": 0}, "chunk_tokens: expected at least 1, got 0"),
        ({"hidden": torch.zeros(B, T, D, dtype=torch.int64)}, "hidden: expected float32"),
        ({"temperature": torch.ones(B, T, requires_grad=True)}, "temperature: expected a tensor"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
@pytest.mark.parametrize("function", ["stats", "loss"])
def test_wrong_arguments_are_named(change: dict[str, Any], message: str, function: str) -> None:
    """Catches an error from inside a matrix product, or none."""
    arguments = draw(torch.float32, torch.device("cpu")) | change
    if function == "loss":
        arguments["token_loss"] = lambda s, rows: s.logp
    run = linear_token_stats if function == "stats" else linear_token_loss
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        run(**arguments)


@pytest.mark.parametrize("function", ["stats", "loss"])
def test_bad_values_are_named_by_their_position(function: str) -> None:
    """Catches positions counted within a chunk instead of within the batch."""
    arguments = draw(torch.float32, torch.device("cpu"))
    arguments["mask"][2, 3] = True
    arguments["hidden"] = arguments["hidden"].nan_to_num(0.0)
    tokens = arguments["tokens"].clone()
    tokens[2, 3] = V
    tokens[~arguments["mask"]] = -1  # masked: harmless
    options = {"token_loss": lambda s, rows: s.logp} if function == "loss" else {}
    run = linear_token_stats if function == "stats" else linear_token_loss
    with pytest.raises(
        ValueError, match=r"tokens\[2, 3\]: expected a value in \[0, 501\), got 501"
    ):
        run(**(arguments | {"tokens": tokens}), chunk_tokens=4, **options)
    arguments["temperature"][2, 3] = 0
    with pytest.raises(ValueError, match=r"temperature\[2, 3\]: expected a finite number above"):
        run(**arguments, chunk_tokens=4, **options)


def test_loss_of_another_shape_is_refused() -> None:
    """Catches a loss already summed, whose sum would be right and whose weights would not."""
    arguments = draw(torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match=re.escape("shape [21], got []")):
        linear_token_loss(**arguments, token_loss=lambda s, rows: s.logp.sum())


def test_double_backward_raises() -> None:
    """Catches second derivatives that are silently zero."""
    arguments = draw(torch.float64, torch.device("cpu"))
    weight = arguments.pop("weight").requires_grad_()
    stats = linear_token_stats(weight=weight, **arguments)
    (grad,) = torch.autograd.grad(stats.logp.sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        grad.sum().backward()


def test_loss_has_no_double_backward() -> None:
    """Catches a gradient penalty whose own gradient is dropped without a word."""
    arguments = draw(torch.float64, torch.device("cpu"))
    weight = arguments["weight"].requires_grad_()
    loss, _ = linear_token_loss(**arguments, token_loss=lambda s, rows: s.logp)
    (grad,) = torch.autograd.grad(loss, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_token_loss has no double backward"):
        (grad.square().sum() + weight.sum()).backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [1, 2]}, "tokens: expected a tensor, got list"),
        ({"mask": [True]}, "mask: expected a tensor, got list"),
        ({"weight": torch.zeros(0, D)}, "weight: expected shape [V, 24] with V ≥ 1"),
        ({"chunk_tokens": 1.5}, "chunk_tokens: expected a whole number, got 1.5"),
        ({"chunk_tokens": 2**63}, "chunk_tokens: expected at least 1"),
        ({"align": 0}, "align: expected at least 1, got 0"),
        ({"align": True}, "align: expected a whole number, got True"),
        ({"token_loss": lambda s, rows: None}, "token_loss: expected to return a tensor"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_odd_arguments_of_the_loss(change: dict[str, Any], message: str) -> None:
    """Catches errors from inside PyTorch that name nothing."""
    arguments = draw(torch.float32, torch.device("cpu"))
    arguments["token_loss"] = lambda s, rows: s.logp
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        linear_token_loss(**(arguments | change))


def test_a_tiny_temperature_is_named_by_its_position() -> None:
    """Catches a check ahead of the chunks that lets through what the kernel refuses."""
    arguments = draw(torch.float32, torch.device("cpu"))
    arguments["mask"][2, 3] = True
    arguments["temperature"][2, 3] = 1e-39
    with pytest.raises(ValueError, match=r"temperature\[2, 3\]: .* above 1e-32"):
        linear_token_stats(**arguments, chunk_tokens=4)
