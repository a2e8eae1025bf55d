from __future__ import annotations

import pytest
import torch

from sim.rlvr.task import ChainSum, CharTokenizer


@pytest.fixture(scope="module")
def task():
    return ChainSum(size=300, seed=0)


def test_text_survives_the_round_trip():
    tokenizer = CharTokenizer()
    assert tokenizer.decode(tokenizer.encode("15-43=-28")) == "15-43=-28"
    assert tokenizer.decode([*tokenizer.encode("7"), tokenizer.eos, 5, 6]) == "7"
    ids = tokenizer.encode(tokenizer.alphabet)
    assert sorted({*ids, tokenizer.pad, tokenizer.eos}) == list(range(len(tokenizer)))


@pytest.mark.parametrize("token", [CharTokenizer.pad, len(CharTokenizer()), 50256])
def test_a_token_without_a_character_spoils_the_answer(task, token):
    """Catches decoding that skips unknown tokens, which would let junk around an answer pass."""
    right = task.tokenizer.encode(task.solutions[0])
    texts = [task.tokenizer.decode(ids) for ids in (right, [*right, token], [token, *right])]
    assert task.score([0, 0, 0], texts).tolist() == [True, False, False]


def test_only_the_full_score_counts(task):
    """reasoning-gym pays half for an answer repeated twice; that must not become a reward."""
    answer = task.solutions[0]
    assert task.score([0] * 4, [answer, answer + answer, "", "1="]).tolist() == [True] + [False] * 3


def test_answers_are_those_of_the_problems(task):
    for prompt, answer in zip(task.prompts, task.solutions, strict=True):
        assert eval(prompt[:-1]) == int(answer)
    swapped = [*task.solutions[1:], task.solutions[0]]
    expected = [a == b for a, b in zip(task.solutions, swapped, strict=True)]
    assert task.score(range(len(task)), swapped).tolist() == expected


def test_held_out_problems_are_never_trained_on(task):
    held_out = ChainSum(size=300, seed=0, held_out=True)
    assert len(held_out) > 10
    assert not set(task.prompts) & set(held_out.prompts)
    other_seed = ChainSum(size=300, seed=5)
    assert not set(other_seed.prompts) & set(held_out.prompts)


def test_padding_sides(task):
    """Prompts end, and answers begin, at the border between them."""
    short = min(range(len(task)), key=lambda i: len(task.prompts[i]))
    length = len(task.prompts[short])
    assert length < task.prompt_mask.shape[1]
    assert torch.equal(
        task.prompt_tokens[short, -length:],
        torch.tensor(task.tokenizer.encode(task.prompts[short])),
    )
    assert (
        task.prompt_mask[short].tolist()
        == [False] * (task.prompt_mask.shape[1] - length) + [True] * length
    )
    answer = [*task.tokenizer.encode(task.solutions[short]), CharTokenizer.eos]
    assert task.solution_tokens[short, : len(answer)].tolist() == answer
    assert task.solution_mask[short].sum() == len(answer)


@pytest.fixture(scope="module")
def worked():
    return ChainSum(size=300, seed=0, terms=4)


def test_solutions_do_one_operation_per_step(worked):
    """Catches a sign lost on the way: every step is worth what the problem asks for."""
    for prompt, solution in zip(worked.prompts, worked.solutions, strict=True):
        steps = solution.split("=")
        assert [len(step.lstrip("-").replace("-", "+").split("+")) for step in steps] == [3, 2, 1]
        assert {eval(step) for step in steps} == {eval(prompt[:-1])}
    assert worked.score(range(len(worked)), worked.solutions).all()


def test_the_answer_is_what_a_response_ends_in():
    answers = {"7": "7", "3-10=-7": "-7", "=007": "7", "+7": "7", "7=": None, "3+4": None, "": None}
    assert {text: ChainSum.answer(text) for text in answers} == answers


def test_each_step_is_judged_by_its_worth(worked):
    """Right steps of a wrong response, a wrong step made good later, junk, and a cut-off end."""
    problem = next(i for i, text in enumerate(worked.solutions) if text.count("=") == 2)
    first, second, last = worked.solutions[problem].split("=")
    other = str(int(last) + 1)
    eos = worked.tokenizer.eos
    texts = [
        (f"{first}={second}={last}", True),
        (f"{first}={second}={other}", True),
        (f"{first}={other}={last}", True),
        (f"=={last}", True),
        (f"{first}={last}", False),
        (f"{first}={second[:-1]}", False),
    ]
    rows = [worked.tokenizer.encode(text) + [eos] * ended for text, ended in texts]
    width = max(map(len, rows)) + 2
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[t < len(row) for t in range(width)] for row in rows])
    right = worked.score_steps([problem] * len(rows), tokens, mask)
    a, b, c, d = (len(step) + 1 for step in (first, second, last, other))
    expected = [
        [True] * (a + b + c),
        [True] * (a + b) + [False] * d,
        [True] * a + [False] * d + [True] * c,
        [False] * 2 + [True] * c,
        [True] * (a + c - 1),
        [True] * a + [False] * (b - 2),
    ]
    for row, wanted in zip(right.tolist(), expected, strict=True):
        assert row == wanted + [False] * (width - len(wanted))


def test_domains_tell_sums_from_differences(worked):
    named = [worked.domains[i] for i in worked.domain.tolist()]
    expected = ["differences" if "-" in prompt else "sums" for prompt in worked.prompts]
    assert named == expected
    assert len(set(named)) == 2
