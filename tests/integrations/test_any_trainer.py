"""The patterns of docs/integrations.md, executed as they stand there."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from entropy_ext import TokenStats, recipes, token_stats
from entropy_ext.recipes import Targets
from entropy_ext.rl import Rollout
from tests.distributed.processes import run_ranks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrations.md"
VOCABULARY = 11


def _pattern(section: str) -> str:
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return code


def _drawn(rows: int = 8, width: int = 6) -> tuple[Rollout, Tensor]:
    """A rollout of groups of four, and the token before each of its tokens."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (rows, width), generator=draw)
    mask = torch.arange(width) < torch.randint(2, width + 1, (rows, 1), generator=draw)
    correct = torch.tensor([True, False] * (rows // 2))
    rollout = Rollout(
        tokens=tokens,
        mask=mask,
        rewards=correct.float(),
        prompt=torch.arange(rows) // 4,
        old_logp=-3 * torch.rand(rows, width, generator=draw),
        correct=correct,
        max_length=width,
        step=0,
        progress=0.0,
    )
    return rollout, torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)


class Bigrams(nn.Module):
    """Logits of the next token from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        draw = torch.Generator().manual_seed(1)
        self.table.weight.data = 2 * torch.randn(VOCABULARY, VOCABULARY, generator=draw)

    def forward(self, before: Tensor) -> Tensor:
        return self.table(before)


def _logits_of(model: nn.Module) -> Any:
    """The text of a response is its first token's predecessor 0 and its tokens."""

    def logits_of(rollout: Rollout) -> Tensor:
        before = torch.cat([torch.zeros_like(rollout.tokens[:, :1]), rollout.tokens[:, :-1]], 1)
        return model(before)

    return logits_of


def _expected(name: str, rollout: Rollout, **options: Any) -> Tensor:
    """The table after one step on the whole rollout at once."""
    recipe, model = recipes.get(name, **options), Bigrams()
    rollout = rollout.rows(recipe.keep(rollout))
    targets = recipe.targets(rollout)
    stats = token_stats(_logits_of(model)(rollout), rollout.tokens, mask=rollout.mask)
    fixed = TokenStats._make(None if value is None else value.detach() for value in stats)
    plan = recipe.prepare(fixed, rollout, targets)
    plan.aggregate(recipe.token_loss(stats, rollout, targets, plan).loss).backward()
    return model.table.weight.detach() - model.table.weight.grad


@pytest.mark.parametrize("micro_batch", [2, 8])
def test_custom_loop_takes_the_recipes_step(micro_batch: int) -> None:
    """Would catch a line of the pattern that no longer runs, or that depends on micro-batches."""
    rollout, _ = _drawn()
    model = Bigrams()
    names = {
        "recipes": recipes,
        "token_stats": token_stats,
        "torch": torch,
        "rollout": rollout,
        "logits_of": _logits_of(model),
        "micro_batch": micro_batch,
        "optimizer": torch.optim.SGD(model.parameters(), lr=1.0),
    }
    exec(_pattern("A custom loop"), names)
    expected = _expected("clip_cov", rollout)
    torch.testing.assert_close(model.table.weight.detach(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(expected, Bigrams().table.weight)


def fsdp_step(groups: dict[int, Any], rank: int) -> Tensor:
    """The pattern on this rank's half of the prompts; the whole table afterwards."""
    mesh = init_device_mesh("cpu", (2,))
    rollout, _ = _drawn()
    model = Bigrams()
    optimizer: list[Any] = []

    def shard(module: nn.Module, *, mesh: Any) -> nn.Module:
        sharded = fully_shard(module, mesh=mesh)
        optimizer.append(torch.optim.SGD(sharded.parameters(), lr=1.0))
        return sharded

    names = {
        "fully_shard": shard,
        "mesh": mesh,
        "model": model,
        "recipe": recipes.get("kl_cov", fraction=0.2),
        "rollout": rollout.rows(rollout.prompt == rank),
        "token_stats": token_stats,
        "torch": torch,
        "logits_of": _logits_of(model),
        "optimizer": SimpleNamespace(step=lambda: optimizer[0].step()),
    }
    exec(_pattern("FSDP"), names)
    return model.table.weight.full_tensor().detach()


def test_fsdp_ranks_take_the_step_of_the_whole(tmp_path: Path) -> None:
    """Would catch a divisor or a selection per rank; the ranks hold unequally many tokens."""
    rollout, _ = _drawn()
    tokens = [int(rollout.mask[rollout.prompt == rank].sum()) for rank in range(2)]
    assert tokens[0] != tokens[1]
    expected = _expected("kl_cov", rollout, fraction=0.2)
    for table in run_ranks(fsdp_step, 2, tmp_path):
        torch.testing.assert_close(table, expected, rtol=1e-5, atol=1e-6)


def test_slime_function_gives_the_recipes_loss() -> None:
    """Would catch a response shifted by a token, another mask, and texts mixed up."""
    rollout, before = _drawn()
    lengths = rollout.mask.sum(-1).tolist()
    names: dict[str, Any] = {
        "functools": functools,
        "itertools": itertools,
        "recipes": recipes,
        "Rollout": Rollout,
        "Targets": Targets,
        "TokenStats": TokenStats,
        "token_stats": token_stats,
        "torch": torch,
    }
    exec(_pattern("slime"), names)

    recipe, model = names["recipe"], Bigrams()
    prompts = [torch.tensor([3, 0]), torch.tensor([0])] * 4
    texts = [
        torch.cat([prompt, row[:n]])
        for prompt, row, n in zip(prompts, rollout.tokens, lengths, strict=True)
    ]
    targets = recipe.targets(rollout)

    def cut(values: Tensor) -> list[Tensor]:
        return [row[:n] for row, n in zip(values, lengths, strict=True)]

    batch = {
        "unconcat_tokens": texts,
        "total_lengths": [len(text) for text in texts],
        "response_lengths": lengths,
        "loss_masks": [torch.ones(n) for n in lengths],
        "advantages": cut(targets.advantages),
        "log_probs": cut(rollout.old_logp),
    }
    # slime pads the packed texts.
    logits = model(torch.cat([*texts, torch.zeros(3, dtype=torch.int64)]))[None]

    def sum_of_sample_mean(flat: Tensor) -> Tensor:
        return torch.stack([part.mean() for part in flat.split(lengths)]).sum()

    loss, metrics = names["loss_function"](
        SimpleNamespace(rollout_temperature=1.0), batch, logits, sum_of_sample_mean
    )
    loss.backward()
    assert metrics["loss"] == loss

    other = Bigrams()
    stats = token_stats(other(before), rollout.tokens, mask=rollout.mask)
    plan = recipe.prepare(None, rollout, targets)
    values = recipe.token_loss(stats, rollout, targets, plan).loss
    expected = (values.sum(-1) / rollout.mask.sum(-1)).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.table.weight.grad, other.table.weight.grad)
