"""The tasks of the comparison: problems of reasoning-gym in single characters."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import reasoning_gym
import torch
from torch import Tensor

from sim.rlvr.task import ChainSum, CharTokenizer

__all__ = ["TASKS", "NumberSorting", "Problems"]


class Problems(NamedTuple):
    """One task, drawn with one seed."""

    train: ChainSum
    held_out: ChainSum


class SortingTokenizer(CharTokenizer):
    """Digits, the comma between numbers, and the order asked for."""

    alphabet = "0123456789,<>"


class NumberSorting(ChainSum):
    """Problems such as 40,7,15< (ascending) or 40,7,15> (descending), answered 7,15,40.

    Held out is a tenth by checksum, as in `ChainSum`, whose interface this has. A right step is a
    number in its place.

    Args:
        size: problems drawn; those drawn twice count once.
        seed: of the draw.
        numbers: per problem.
        largest: number, at least 1.
        held_out: the held-out tenth instead of the rest.
    """

    domains = ("ascending", "descending")

    def __init__(
        self,
        *,
        size: int,
        seed: int,
        numbers: int = 3,
        largest: int = 99,
        held_out: bool = False,
    ) -> None:
        self.tokenizer = SortingTokenizer()
        self._dataset = reasoning_gym.create_dataset(
            "number_sorting",
            min_numbers=numbers,
            max_numbers=numbers,
            min_decimals=0,
            max_decimals=0,
            min_value=0,
            max_value=largest,
            seed=seed,
            size=size,
        )
        entries: dict[str, dict[str, Any]] = {}
        for entry in self._dataset:
            facts = entry["metadata"]
            sign = "<" if facts["direction"] == "ascending" else ">"
            prompt = _joined(facts["original_numbers"]) + sign
            if (zlib.crc32(prompt.encode()) % 10 == 0) == held_out:
                entries.setdefault(prompt, entry)
        self.prompts = list(entries)
        self._entries = list(entries.values())
        self.solutions = [_joined(entry["metadata"]["sorted_numbers"]) for entry in self._entries]
        self.prompt_tokens, self.prompt_mask = self._padded(self.prompts, side="left")
        self.solution_tokens, self.solution_mask = self._padded(self.solutions, side="right")
        self.domain = torch.tensor([prompt.endswith(">") for prompt in self.prompts]).long()

    @staticmethod
    def answer(text: str) -> str | None:
        """The list, as every right response would write it, or None."""
        numbers = text.split(",")
        return ",".join(str(int(n)) for n in numbers) if all(map(_plain, numbers)) else None

    def score(self, problems: Sequence[int], texts: Sequence[str]) -> Tensor:
        """[B] bool: reasoning-gym's verdict on each text as a list of numbers."""
        scores = [
            self._dataset.score_answer(json.dumps(text.split(",")), self._entries[i]) == 1.0
            and self.answer(text) is not None
            for i, text in zip(problems, texts, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.bool)

    def score_steps(self, problems: Sequence[int], tokens: Tensor, mask: Tensor) -> Tensor:
        """[B, T] bool: whether each token belongs to a number in its place, its comma included."""
        right = torch.zeros_like(mask)
        (comma,) = self.tokenizer.encode(",")
        rows = zip(problems, tokens.tolist(), mask.sum(-1).tolist(), strict=True)
        for row, (problem, ids, length) in enumerate(rows):
            wanted = self.solutions[problem].split(",")
            start = place = 0
            for at in range(length):
                if ids[at] == comma or at + 1 == length:
                    number = self.tokenizer.decode(ids[start : at + 1]).removesuffix(",")
                    right[row, start : at + 1] = place < len(wanted) and number == wanted[place]
                    start, place = at + 1, place + 1
        return right


def _joined(numbers: Sequence[str]) -> str:
    """["40.0", "7.0"] → "40,7"."""
    return ",".join(str(int(float(number))) for number in numbers)


def _plain(number: str) -> bool:
    return number.isascii() and number.isdigit()


def _chain_sum(seed: int) -> Problems:
    def drawn(held_out: bool) -> ChainSum:
        return ChainSum(size=4000, seed=seed, terms=3, digits=1, held_out=held_out)

    return Problems(drawn(False), drawn(True))


def _number_sorting(seed: int) -> Problems:
    def drawn(held_out: bool) -> NumberSorting:
        return NumberSorting(size=4000, seed=seed, held_out=held_out)

    return Problems(drawn(False), drawn(True))


TASKS: dict[str, Callable[[int], Problems]] = {
    "chain_sum": _chain_sum,
    "number_sorting": _number_sorting,
}
"""reasoning-gym's name of a task → its problems for a seed"""
