"""Sums and differences from reasoning-gym, and a tokenizer of single characters."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import reasoning_gym
import torch
from torch import Tensor

__all__ = ["ChainSum", "CharTokenizer"]


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
    """Problems such as 15-43=, each once, and reasoning-gym's verdict on answers to them.

    A tenth of all expressions, chosen by their checksum, is held out: neither warm-up nor
    reinforcement learning ever sees them.

    Args:
        size: problems drawn; those drawn twice count once.
        seed: of the draw.
        terms: numbers per problem.
        digits: the largest number of digits; fewer occur too, so prompts differ in length.
        held_out: the held-out tenth instead of the rest.
    """

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
        self.answers = [entry["answer"] for entry in entries.values()]
        self._entries = list(entries.values())
        self.prompt_tokens, self.prompt_mask = self._padded(self.prompts, side="left")
        self.answer_tokens, self.answer_mask = self._padded(self.answers, side="right")

    def __len__(self) -> int:
        return len(self.prompts)

    def score(self, problems: Sequence[int], texts: Sequence[str]) -> Tensor:
        """[B] bool: whether each text answers its problem.

        reasoning-gym gives partial credit to a text that merely contains the answer's digits; only
        its full score counts here.
        """
        scores = [
            self._dataset.score_answer(text, self._entries[i])
            for i, text in zip(problems, texts, strict=True)
        ]
        return torch.tensor([score == 1.0 for score in scores], dtype=torch.bool)

    def _padded(self, texts: list[str], *, side: str) -> tuple[Tensor, Tensor]:
        """Tokens and mask; answers (padded on the right) get their end-of-sequence token."""
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
