"""What each data-parallel rank does in test_verl_process.py."""

from __future__ import annotations

import functools
from typing import Any

import torch
from verl.utils.tensordict_utils import index_select_tensor_dict
from verl.workers.utils.losses import ppo_loss

from entropy_ext.integrations.verl import attach, register
from tests.integrations.verl_cases import actor_config
from tests.integrations.verl_engine import BigramEngine, training_data

OPTIONS: dict[str, dict[str, Any]] = {
    "kl_cov": {"fraction": 0.2},
    "high_entropy_tokens": {"fraction": 0.3},
    "entropic": {"target": 2.0, "confident": 0.2},
}


def gradients(groups: dict[int, Any], rank: int, world: int = 2) -> dict[str, torch.Tensor]:
    """The gradient of this rank's sequences, averaged over ranks as FSDP does."""
    group = groups.get(world)
    register(OPTIONS)
    found = {}
    for name in OPTIONS:
        engine = BigramEngine(group)
        engine.step_optimizer = False
        attach(engine)
        data = training_data(0)
        if group is not None:
            # Ranks do not hold equally many tokens.
            data = index_select_tensor_dict(data, torch.arange(rank, len(data), world))
        config = actor_config(f"entropy_ext/{name}", loss_agg_mode="token-mean")
        engine.train_batch(data, functools.partial(ppo_loss, config=config))
        gradient = engine.module.weight.grad
        if group is not None:
            torch.distributed.all_reduce(gradient, group=group)
            gradient /= world
        found[name] = gradient
    return found
