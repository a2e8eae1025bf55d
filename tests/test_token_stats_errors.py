"""Bad arguments: an error that names the argument, what was expected and what came."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from entropy_ext import token_stats
from tests import draws
from tests.truth import OUTPUTS, gradient, same_bits


def call(device: torch.device, **changed: Any) -> None:
    """token_stats on a good [2, 3, 7] batch, some arguments replaced."""
    arguments: dict[str, Any] = {
        "logits": torch.zeros(2, 3, 7, device=device),
        "tokens": torch.zeros(2, 3, dtype=torch.int64, device=device),
        "temperature": torch.ones(2, 3, device=device),
        "mask": torch.ones(2, 3, dtype=torch.bool, device=device),
    }
    arguments |= changed
    token_stats(arguments.pop("logits"), arguments.pop("tokens"), **arguments)


def test_the_good_batch_is_good(device: torch.device) -> None:
    """Without this every error below could come from something else."""
    call(device)


WRONG_DTYPES = {
    "logits": (torch.zeros(2, 3, 7, dtype=torch.int64), ["float32", "bfloat16", "int64"]),
    "tokens": (torch.zeros(2, 3, dtype=torch.int32), ["int64", "int32"]),
    "mask": (torch.ones(2, 3), ["bool", "float32"]),
    "temperature": (torch.ones(2, 3, dtype=torch.bfloat16), ["float32", "bfloat16"]),
}


@pytest.mark.parametrize("name", WRONG_DTYPES)
def test_wrong_dtype(name: str, device: torch.device) -> None:
    """Catches bytes read under another type, above all int32 tokens and rounded temperatures."""
    value, said = WRONG_DTYPES[name]
    with pytest.raises(TypeError, match=f"^{name}: expected ") as raised:
        call(device, **{name: value.to(device)})
    assert all(word in str(raised.value) for word in said), raised.value


@pytest.mark.parametrize("name", ["logits", "tokens", "mask"])
def test_not_a_tensor(name: str, device: torch.device) -> None:
    with pytest.raises(TypeError, match=f"{name}.*list"):
        call(device, **{name: [[0, 1, 2], [3, 4, 5]]})


WRONG_SHAPES = {
    "tokens": torch.zeros(2, 4, dtype=torch.int64),
    "mask": torch.ones(3, 2, dtype=torch.bool),
    "temperature": torch.ones(3),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shape(name: str, device: torch.device) -> None:
    """Catches silent broadcasting: a transposed mask, one temperature for each column."""
    value = WRONG_SHAPES[name]
    with pytest.raises(ValueError, match=f"^{name}: expected ") as raised:
        call(device, **{name: value.to(device)})
    assert "[2, 3]" in str(raised.value)
    assert str(list(value.shape)) in str(raised.value)


@pytest.mark.parametrize("name", ["tokens", "mask", "temperature"])
def test_mixed_devices(name: str, device: torch.device) -> None:
    """Catches an address of one device read on the other."""
    dtype = {"tokens": torch.int64, "mask": torch.bool, "temperature": torch.float32}[name]
    with pytest.raises((ValueError, RuntimeError)) as raised:
        call(device, **{name: torch.ones(2, 3, dtype=dtype, device="meta")})
    assert all(word in str(raised.value) for word in (name, device.type, "meta")), raised.value


def test_vocabulary_not_contiguous(device: torch.device) -> None:
    """Catches [.., V, T] read as rows of [.., T, V]; a silent copy would double the memory."""
    with pytest.raises(ValueError, match=r"^logits: .*contiguous.*stride 3"):
        call(device, logits=torch.zeros(2, 7, 3, device=device).transpose(1, 2))


def test_one_column_has_no_stride_to_check(device: torch.device) -> None:
    """V = 1 sliced from a wider buffer is a vocabulary like another."""
    logits = torch.randn(5, 4, generator=draws.generator("column")).to(device)[:, 1:2]
    stats = token_stats(logits, torch.zeros(5, dtype=torch.int64, device=device))
    assert torch.equal(stats.lse, logits[:, 0])
    assert (stats.logp == 0).all()


def test_too_many_leading_dimensions(device: torch.device) -> None:
    """Ten that cannot be merged: catches strides written past a fixed array."""
    shape = (2,) * 10
    logits = torch.zeros(*shape, 3, device=device)
    tokens = torch.zeros(shape, dtype=torch.int64, device=device)
    assert (token_stats(logits, tokens).logp < -1).all()
    reversed_dims = logits.permute(*range(9, -1, -1), 10)
    with pytest.raises(ValueError, match=r"^logits: expected at most .* leading dimensions"):
        token_stats(reversed_dims, tokens)


def test_no_vocabulary_dimension(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"^logits: expected .*\[\.\.\., V\].*0-dim"):
        call(device, logits=torch.tensor(1.0, device=device))


def test_no_column(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"^logits: expected .*V = 0"):
        call(device, logits=torch.zeros(2, 3, 0, device=device))


@pytest.mark.parametrize("number", [1e39, -1e39, 10**400, math.nan, 0])
def test_a_number_beyond_the_range_of_the_statistics(number: float) -> None:
    """Catches an error of the conversion, which does not name the argument."""
    with pytest.raises(ValueError, match=r"^temperature: expected a finite number above"):
        token_stats(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), temperature=number)


def test_a_large_integer_as_temperature() -> None:
    """Catches numbers that only fit a float taken for 64-bit integers."""
    stats = token_stats(torch.randn(2, 3), torch.zeros(2, dtype=torch.int64), temperature=2**64)
    torch.testing.assert_close(stats.logp, torch.full((2,), -math.log(3)))


def test_temperature_that_requires_grad(device: torch.device) -> None:
    """Catches a learned temperature whose gradient would be dropped in silence."""
    for shape in ((), (2, 3)):
        temperature = torch.ones(shape, device=device, requires_grad=True)
        with pytest.raises(ValueError, match=r"^temperature: expected .*gradient"):
            call(device, temperature=temperature)


@pytest.mark.parametrize("token", [-1, 7, -100, 2**31, -(2**40)])
def test_token_out_of_range(token: int, device: torch.device) -> None:
    """An error on the CPU, NaN in that row on CUDA: catches a read outside the row."""
    logits = draws.draw_logits("randn", 6, 7, torch.float32).view(2, 3, 7).to(device)
    tokens = torch.tensor([[0, 1, 2], [3, token, 6]], device=device)
    if device.type == "cpu":
        expected = rf"^tokens\[1, 1\]: expected a value in \[0, 7\), got {token}$"
        with pytest.raises(ValueError, match=expected):
            token_stats(logits, tokens)
    else:
        assert_only_that_row_is_nan(logits, tokens, torch.ones(2, 3, device=device))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e-45])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_temperature_of_a_token_out_of_range(
    dtype: torch.dtype, value: float, device: torch.device
) -> None:
    """An error on the CPU, NaN in that row on CUDA; 1e-45 is too small for its inverse."""
    if dtype == torch.float64 and value == 1e-45:
        value = 5e-324
    logits = draws.draw_logits("randn", 6, 7, dtype).view(2, 3, 7).to(device)
    tokens = torch.zeros(2, 3, dtype=torch.int64, device=device)
    temperature = torch.ones(2, 3, device=device, dtype=token_stats(logits, tokens).logp.dtype)
    temperature[1, 1] = value
    if device.type == "cpu":
        with pytest.raises(
            ValueError, match=r"^temperature\[1, 1\]: expected a finite number above"
        ) as raised:
            token_stats(logits, tokens, temperature=temperature)
        assert float(str(raised.value).rpartition("got ")[2]) == pytest.approx(
            temperature[1, 1].item(), nan_ok=True, abs=0
        )
    else:
        assert_only_that_row_is_nan(logits, tokens, temperature)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_scalar_temperature_out_of_range(value: float, device: torch.device) -> None:
    """An error on the CPU, NaN in every row on CUDA."""
    logits = draws.draw_logits("randn", 2, 7, torch.float32).to(device)
    tokens = torch.zeros(2, dtype=torch.int64, device=device)
    for temperature in (value, torch.tensor(value, device=device)):
        if device.type == "cpu":
            with pytest.raises(
                ValueError, match=rf"^temperature: expected a finite number .* got {value}$"
            ):
                token_stats(logits, tokens, temperature=temperature)
        else:
            assert all(
                x.isnan().all() for x in token_stats(logits, tokens, temperature=temperature)[:3]
            )


def assert_only_that_row_is_nan(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: torch.Tensor
) -> None:
    """[2, 3] rows of which [1, 1] has the bad argument; what a device that cannot raise does."""
    bad = torch.zeros(2, 3, dtype=torch.bool, device=logits.device)
    bad[1, 1] = True
    stats = token_stats(logits, tokens, temperature=temperature, extras=True)
    good = token_stats(logits[~bad], tokens[~bad], temperature=temperature[~bad], extras=True)
    for name in OUTPUTS:
        assert getattr(stats, name)[1, 1].isnan(), name
        assert same_bits(getattr(stats, name)[~bad], getattr(good, name)), name
    result = gradient(logits, tokens, temperature=temperature)
    assert result[1, 1].isnan().all()
    assert result[~bad].isfinite().all()


def test_the_first_bad_row_is_named(device: torch.device) -> None:
    """Catches the position counted in the strides of the logits or of a transposed tensor."""
    if device.type != "cpu":
        pytest.skip("bad tokens are NaN rows on CUDA, which cannot raise without waiting")
    logits = torch.zeros(3, 2, 7).transpose(0, 1)
    tokens = torch.tensor([[0, 9], [1, 2], [8, 3]]).t()
    with pytest.raises(ValueError, match=r"^tokens\[0, 2\]: expected .* got 8$"):
        token_stats(logits, tokens)
    with pytest.raises(ValueError, match=r"^tokens\[0\]: expected .* got 7$"):
        token_stats(torch.zeros(1, 7), torch.tensor([7]))
    with pytest.raises(ValueError, match=r"^tokens(\[\])?: expected .* got 7$"):
        token_stats(torch.zeros(7), torch.tensor(7))


@pytest.mark.parametrize("shape", [(0, 7), (2, 0, 7), (0, 3, 1)])
def test_empty_batch(shape: tuple[int, ...], device: torch.device) -> None:
    """A micro-batch that filtering left empty, forward and backward; a bad τ cannot hurt it."""
    logits = torch.zeros(shape, device=device, requires_grad=True)
    tokens = torch.zeros(shape[:-1], dtype=torch.int64, device=device)
    mask = torch.ones(shape[:-1], dtype=torch.bool, device=device)
    for extras in (False, True):
        stats = token_stats(logits, tokens, temperature=0.6, mask=mask, extras=extras)
        given = [x for x in stats if x is not None]
        assert len(given) == (7 if extras else 3)
        assert all(x.shape == shape[:-1] and x.dtype == torch.float32 for x in given)
        loss = stats.logp.sum() + stats.entropy.sum() + stats.lse.sum()
        (result,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0
        assert result.shape == shape


def test_a_single_row_without_leading_dimensions(device: torch.device) -> None:
    """logits [V], token []: the same numbers as [1, V]."""
    logits = draws.draw_logits("randn", 1, 33, torch.float32).to(device)
    tokens = torch.tensor([4], device=device)
    alone = token_stats(logits[0], tokens[0], extras=True)
    row = token_stats(logits, tokens, extras=True)
    for name in OUTPUTS:
        assert getattr(alone, name).shape == ()
        assert same_bits(getattr(alone, name), getattr(row, name)[0]), name
    assert torch.equal(gradient(logits[0], tokens[0]), gradient(logits, tokens)[0])
