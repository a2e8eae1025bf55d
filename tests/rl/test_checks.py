from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from entropy_ext.rl.checks import check_bound, check_flag


@pytest.mark.parametrize("value", ["1", None, True, 1j, torch.tensor(1.0), [1]])
def test_what_is_no_number_is_named(value):
    """Catches "'>=' not supported between 'str' and 'int'", and a tensor that would be read."""
    with pytest.raises(TypeError, match="coef: expected a number, got"):
        check_bound("coef", value, at_least=0)


@pytest.mark.parametrize("bounds", [{}, {"above": 0}, {"at_most": 1}, {"finite": True}])
def test_nan_is_within_no_bounds(bounds):
    with pytest.raises(ValueError, match=r"coef: expected a .*number.*, got nan"):
        check_bound("coef", math.nan, **bounds)


def test_infinity_needs_leave():
    check_bound("coef", math.inf, at_least=0)
    with pytest.raises(ValueError, match="coef: expected a finite number >= 0, got inf"):
        check_bound("coef", math.inf, at_least=0, finite=True)


@pytest.mark.parametrize("value", [1.5, 2.0, math.nan, "2", True])
def test_fractions_are_no_counts(value):
    with pytest.raises(TypeError, match="count: expected an integer, got"):
        check_bound("count", value, at_least=1, integer=True)


def test_numbers_of_numpy_are_numbers():
    """Catches a check by exact type: configurations are read into both kinds."""
    check_bound("coef", np.float32(0.5), at_least=0, at_most=1)
    check_bound("count", np.int64(3), at_least=1, integer=True)


def test_flags_are_no_strings():
    check_flag("whiten", False)
    with pytest.raises(TypeError, match="whiten: expected True or False, got 'false'"):
        check_flag("whiten", "false")
