"""Sums and differences from reasoning-gym, worked out step by step, in single characters."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import reasoning_gym
import torch
from torch import Tensor

__all__ = ["ChainSum", "CharTokenizer"]

_NUMBER = re.compile(r"[+-]?\d+")
_EXPRESSION = re.compile(r"-?\d+([+-]\d+)*")


class CharTokenizer:
    """One token per character of `alphabet`, after the padding and end-of-sequence tokens."""

    pad = 0
    eos = 1
    alphabet = "0123456789+-="

    def __init__(self) -> None:
        self._ids = {char: i for i, char in enumerate(self.alphabet, start=2)}

    def __len__(self) -> int:
        return len(self.alphabet) + 2

    def encode(self, text: str) -> list[int]:
        """Token ids of the characters; KeyError on one outside the alphabet."""
        return [self._ids[char] for char in text]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text up to the end-of-sequence token; U+FFFD where a token stands for no character."""
        text = ""
        for token in tokens:
            if token == self.eos:
                break
            known = 2 <= token < len(self)
            text += self.alphabet[token - 2] if known else "\N{REPLACEMENT CHARACTER}"
        return text


class ChainSum:
    """Problems such as 15-43+7=, each once, and reasoning-gym's verdict on responses to them.

    A solution does one operation per step: -28+7=-21. With two terms it is the answer alone. A
    tenth of all expressions, chosen by their checksum, is held out: neither warm-up nor
    reinforcement learning ever sees them.

    Args:
        size: problems drawn; those drawn twice count once.
        seed: of the draw.
        terms: numbers per problem.
        digits: the largest number of digits; fewer occur too, so prompts differ in length.
        held_out: the held-out tenth instead of the rest.
    """

    domains = ("sums", "differences")

    def __init__(
        self, *, size: int, seed: int, terms: int = 2, digits: int = 2, held_out: bool = False
    ) -> None:
        self.tokenizer = CharTokenizer()
        self._dataset = reasoning_gym.create_dataset(
            "chain_sum",
            min_terms=terms,
            max_terms=terms,
            min_digits=1,
            max_digits=digits,
            seed=seed,
            size=size,
        )
        entries: dict[str, dict[str, Any]] = {}
        for entry in self._dataset:
            expression = entry["metadata"]["expression"].replace(" ", "") + "="
            if (zlib.crc32(expression.encode()) % 10 == 0) == held_out:
                entries.setdefault(expression, entry)
        self.prompts = list(entries)
        self.solutions = [_worked_out(prompt) for prompt in self.prompts]
        self._entries = list(entries.values())
        self._values = [int(entry["answer"]) for entry in self._entries]
        self.prompt_tokens, self.prompt_mask = self._padded(self.prompts, side="left")
        self.solution_tokens, self.solution_mask = self._padded(self.solutions, side="right")
        self.domain = torch.tensor(["-" in prompt for prompt in self.prompts]).long()
        """[P] int64: the position in `domains` of what the problem asks for"""

    def __len__(self) -> int:
        return len(self.prompts)

    @staticmethod
    def answer(text: str) -> str | None:
        """The number that a response ends in, as every right response would write it, or None."""
        last = text.rpartition("=")[2]
        return str(int(last)) if _NUMBER.fullmatch(last) else None

    def score(self, problems: Sequence[int], texts: Sequence[str]) -> Tensor:
        """[B] bool: whether each text ends in the answer to its problem.

        reasoning-gym gives partial credit to a text that merely contains the answer's digits; only
        its full score counts here.
        """
        scores = [
            self._dataset.score_answer(text.rpartition("=")[2], self._entries[i])
            for i, text in zip(problems, texts, strict=True)
        ]
        return torch.tensor([score == 1.0 for score in scores], dtype=torch.bool)

    def score_steps(self, problems: Sequence[int], tokens: Tensor, mask: Tensor) -> Tensor:
        """Whether each token belongs to a right step: one that is equal to what was asked.

        Args:
            problems: B problems.
            tokens: [B, T] int64, responses.
            mask: [B, T] bool, padded on the right.

        Returns:
            [B, T] bool, False off the mask; what closes a step belongs to it.
        """
        (equals,) = self.tokenizer.encode("=")
        right = torch.zeros_like(mask)
        rows = zip(problems, tokens.tolist(), mask.sum(-1).tolist(), strict=True)
        for row, (problem, ids, length) in enumerate(rows):
            start = 0
            for at in range(length):
                if ids[at] == equals or at + 1 == length:
                    step = self.tokenizer.decode(ids[start : at + 1]).removesuffix("=")
                    right[row, start : at + 1] = _value(step) == self._values[problem]
                    start = at + 1
        return right

    def _padded(self, texts: list[str], *, side: str) -> tuple[Tensor, Tensor]:
        """Tokens and mask; solutions (padded on the right) get their end-of-sequence token."""
        end = [self.tokenizer.eos] if side == "right" else []
        rows = [self.tokenizer.encode(text) + end for text in texts]
        width = max(map(len, rows))
        tokens = torch.full((len(rows), width), self.tokenizer.pad)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, ids in enumerate(rows):
            columns = slice(width - len(ids), width) if side == "left" else slice(len(ids))
            tokens[row, columns] = torch.tensor(ids)
            mask[row, columns] = True
        return tokens, mask


def _worked_out(prompt: str) -> str:
    """15-43+7= → -28+7=-21."""
    total, *rest = _NUMBER.findall(prompt)
    steps = []
    while rest:
        total = str(int(total) + int(rest.pop(0)))
        steps.append(total + "".join(rest))
    return "=".join(steps)


def _value(step: str) -> int | None:
    return sum(map(int, _NUMBER.findall(step))) if _EXPRESSION.fullmatch(step) else None
