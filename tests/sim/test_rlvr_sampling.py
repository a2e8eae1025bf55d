from __future__ import annotations

import pytest
import torch

from entropy_ext.recipes import Sampling
from sim.rlvr.model import build_model, response_stats
from sim.rlvr.sampling import keep_most_likely, sample
from sim.rlvr.task import ChainSum, CharTokenizer

GROUP = 3


@pytest.fixture(scope="module")
def task():
    return ChainSum(size=200, seed=0)


@pytest.fixture(scope="module")
def model():
    model = build_model(vocab_size=16, seed=1, hidden_size=32, layers=2)
    # Sharper than at initialisation, or every token is as likely as every other.
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    return model


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Many short parallel regions: one thread is faster where the cores are shared."""


def _sample(model, task, rows, seed=0, **options):
    sampling = Sampling(**({"group_size": GROUP, "temperature": 0.7} | options))
    return sample(
        model,
        task.prompt_tokens[rows],
        task.prompt_mask[rows],
        max_length=7,
        sampling=sampling,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.fixture(scope="module")
def rows(task):
    lengths = task.prompt_mask.sum(-1)
    rows = torch.cat([torch.nonzero(lengths == n).flatten()[:4] for n in lengths.unique()])
    assert len(lengths[rows].unique()) == 2
    return rows


def test_sampling_and_training_see_the_same_policy(model, task, rows):
    """Catches a cache shared out to the wrong group, wrong positions, and an unmasked padding."""
    samples = _sample(model, task, rows)
    repeated = rows.repeat_interleave(GROUP)
    stats = response_stats(
        model,
        task.prompt_tokens[repeated],
        task.prompt_mask[repeated],
        samples.tokens,
        samples.mask,
        temperature=0.7,
    )
    assert len(samples.mask.sum(-1).unique()) > 2
    assert samples.logp[samples.mask].min() < -1
    torch.testing.assert_close(samples.logp, stats.logp, rtol=0, atol=2e-5)


def test_padding_is_invisible(model, task, rows):
    """Every response scored alone, without any padding, in float64: the padded batch agrees."""
    samples = _sample(model, task, rows)
    exact = build_model(vocab_size=16, seed=1, hidden_size=32, layers=2).double()
    exact.load_state_dict(model.state_dict())
    for i, row in enumerate(rows.repeat_interleave(GROUP).tolist()):
        prompt = task.prompt_tokens[row][task.prompt_mask[row]]
        response = samples.tokens[i][samples.mask[i]]
        with torch.no_grad():
            logits = exact(torch.cat([prompt, response])[None]).logits[0]
        logp = (logits[len(prompt) - 1 : -1] / 0.7).log_softmax(-1)
        expected = logp.gather(-1, response[:, None]).squeeze(-1)
        got = samples.logp[i][samples.mask[i]].double()
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_responses_end_at_the_first_eos(model, task, rows):
    samples = _sample(model, task, rows)
    eos = CharTokenizer.eos
    for tokens, mask, truncated in zip(
        samples.tokens.tolist(), samples.mask.tolist(), samples.truncated.tolist(), strict=True
    ):
        length = sum(mask)
        assert mask == [True] * length + [False] * (len(mask) - length)
        assert eos not in tokens[: length - 1]
        assert truncated == (tokens[length - 1] != eos)
        assert not truncated or length == 7
        assert set(tokens[length:]) <= {CharTokenizer.pad}
    assert samples.truncated.any()
    assert not samples.truncated.all()
    assert torch.equal(samples.logp[~samples.mask], torch.zeros((~samples.mask).sum()))


def test_the_generator_is_the_only_source_of_chance(model, task, rows):
    first, again, other = (_sample(model, task, rows, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.tokens, again.tokens)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_first_tokens_follow_the_distribution(model, task):
    """Catches a temperature applied twice or not at all: 3000 draws against the exact p."""
    row = torch.tensor([0])
    samples = _sample(model, task, row, group_size=3000)
    with torch.no_grad():
        prompt = task.prompt_tokens[row][task.prompt_mask[row]]
        p = (model(prompt[None]).logits[0, -1] / 0.7).softmax(-1)
    share = torch.bincount(samples.tokens[:, 0], minlength=16) / 3000
    deviation = (share - p).abs() / (p * (1 - p) / 3000).sqrt()
    assert deviation.max() < 4.5  # standard errors; 16 cells
    assert p.max() < 0.95


def test_keep_most_likely():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()

    def kept(top_k, top_p):
        return torch.isfinite(keep_most_likely(logits, top_k, top_p)).int().tolist()

    assert kept(None, 1.0) == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert kept(2, 1.0) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert kept(None, 0.81) == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert kept(None, 0.79) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert kept(None, 1e-9) == [[1, 0, 0, 0], [0, 0, 0, 1]]
    # Renormalised after top-k: the two kept have 0.625 and 0.375.
    assert kept(2, 0.6) == [[1, 0, 0, 0], [0, 0, 0, 1]]


def test_truncated_sampling_draws_from_the_kept_set(model, task, rows):
    samples = _sample(model, task, rows, top_k=1)
    tokens = samples.tokens.reshape(len(rows), GROUP, -1)
    assert torch.equal(tokens, tokens[:, :1].expand_as(tokens))
