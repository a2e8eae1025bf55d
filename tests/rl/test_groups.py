from __future__ import annotations

import math

import pytest
import torch

from entropy_ext.rl import Groups


def test_reductions_follow_ids_not_positions():
    """Catches grouping by position: members are scattered, sizes differ, ids are arbitrary."""
    prompt = torch.tensor([7, -3, 7, 10**12, -3, 7])
    values = torch.tensor([1.0, 10.0, 2.0, 5.0, 30.0, 6.0])
    groups = Groups(prompt)
    assert groups.size.tolist() == [3, 2, 3, 1, 2, 3]
    assert groups.first(values).tolist() == [1.0, 10.0, 1.0, 5.0, 10.0, 1.0]
    assert groups.sum(values).tolist() == [9.0, 40.0, 9.0, 5.0, 40.0, 9.0]
    assert groups.centred(values).tolist() == [-2.0, -10.0, -1.0, 0.0, 10.0, 3.0]
    root7 = 7.0**0.5  # squares 4 + 1 + 9 over 2
    expected = torch.tensor([root7, 200**0.5, root7, 0.0, 200**0.5, root7])
    torch.testing.assert_close(groups.std(values), expected)
    population = torch.tensor([(14 / 3) ** 0.5, 10.0, (14 / 3) ** 0.5, 0.0, 10.0, (14 / 3) ** 0.5])
    torch.testing.assert_close(groups.std(values, unbiased=False), population)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-8, 12345.678])
def test_equal_members_centre_to_exactly_zero(value):
    """Catches mean-then-subtract, which leaves a rounding residue that a std of 0 blows up."""
    groups = Groups(torch.zeros(7, dtype=torch.int64))
    assert groups.centred(torch.full((7,), value)).abs().max() == 0
    assert groups.std(torch.full((7,), value)).max() == 0


def test_agrees_with_a_loop_on_random_groups():
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, 40, (300,), generator=generator)
    values = torch.randn(300, generator=generator, dtype=torch.float64)
    groups = Groups(prompt)
    for i in range(300):
        members = values[prompt == prompt[i]]
        assert groups.sum(values)[i].item() == pytest.approx(members.sum().item(), abs=1e-12)
        if len(members) > 1:
            assert groups.std(values)[i].item() == pytest.approx(members.std().item(), abs=1e-12)


def test_extremes_and_their_exponential_sum():
    """Catches an overflow of exp, and −inf − (−inf) in a group whose members are all impossible."""
    groups = Groups(torch.tensor([0, 1, 0, 2, 1]))
    values = torch.tensor([1000.0, -2000.0, 1000.0, -torch.inf, -torch.inf])
    assert groups.index.tolist() == [0, 1, 0, 2, 1]
    assert groups.max(values).tolist() == [1000.0, -2000.0, 1000.0, -torch.inf, -2000.0]
    expected = torch.tensor([1000 + math.log(2), -2000, 1000 + math.log(2), -torch.inf, -2000])
    torch.testing.assert_close(groups.logsumexp(values), expected)


def test_a_group_varies_if_any_member_differs():
    groups = Groups(torch.tensor([0, 1, 0, 2, 1]))
    assert groups.varies(torch.tensor([1, 0, 1, 1, 1])).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert not groups.varies(torch.full((5,), 0.1)).any()


def test_rank_counts_within_the_group():
    """Catches ranks over the whole batch, and an unstable sort deciding ties."""
    prompt = torch.tensor([7, -3, 7, 7, -3, 7, 9])
    values = torch.tensor([0.5, 2.0, -1.0, 0.5, 1.0, -torch.inf, 3.0])
    assert Groups(prompt).rank(values).tolist() == [2, 1, 1, 3, 0, 0, 0]
    many = torch.randint(0, 9, (200,), generator=torch.Generator().manual_seed(2))
    drawn = torch.randn(200, generator=torch.Generator().manual_seed(3))
    ranks = Groups(many).rank(drawn)
    for i in range(200):
        assert ranks[i] == (drawn[many == many[i]] < drawn[i]).sum()


def test_empty_batch():
    groups = Groups(torch.zeros(0, dtype=torch.int64))
    assert groups.centred(torch.zeros(0)).tolist() == []


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"prompt: expected torch.int64, got torch.float32"):
        Groups(torch.zeros(3))
    with pytest.raises(ValueError, match=r"values: expected shape \[2\], got \[3\]"):
        Groups(torch.zeros(2, dtype=torch.int64)).sum(torch.zeros(3))
    with pytest.raises(TypeError, match="values: expected a floating-point tensor"):
        Groups(torch.zeros(2, dtype=torch.int64)).sum(torch.zeros(2, dtype=torch.int64))
