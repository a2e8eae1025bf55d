from __future__ import annotations

import pytest
import torch

from entropy_ext.rl.statistics import masked_mean


def test_mean_over_tokens_not_over_sequences():
    """Catches a mean of means, padding entering, and a gradient left attached."""
    values = torch.tensor([[1.0, 2.0, 3.0], [6.0, torch.nan, torch.inf]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    mean = masked_mean(values, mask)
    assert mean.item() == 3.0
    assert not mean.requires_grad


def test_mean_of_nothing_is_nan():
    assert masked_mean(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)).isnan()
    with pytest.raises(TypeError, match=r"mask: expected torch\.bool, got torch\.int64"):
        masked_mean(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64))
