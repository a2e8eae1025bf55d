"""The same training on one rank or several; what each ended with is written to a folder.

python -m torch.distributed.run --nproc_per_node 2 -m tests.integrations.trl_ranks FOLDER
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from entropy_ext import recipes
from entropy_ext.integrations.trl import GRPOTrainer
from tests.integrations.trl_runs import first_word, first_words, scripted, train, trainer

RECIPES: dict[str, dict[str, Any]] = {
    "kl_cov": {"fraction": 0.1, "cov_coef": 5.0},
    "entropic": {"target": 3.0, "confident": 0.02},
    "seed_grpo": {},
    "prorl": {"version": "v2", "kl_coef": 0.1, "reset_every": 2},
    "steer": {},
}
RESPONSES = 12


def ran(folder: Path, name: str, world: int) -> dict[str, Any]:
    """Two generations of three groups of four; with two ranks the middle group is torn."""
    recipe = recipes.get(name, **RECIPES[name])
    ours = trainer(
        GRPOTrainer,
        folder / "run",
        model=str(folder / "model"),
        reward=first_word,
        per_device_train_batch_size=RESPONSES // world // 2,
        gradient_accumulation_steps=2,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        ddp_backend="gloo" if world > 1 else None,
        ours={"recipe": recipe, "rollout_func": scripted, "answers": first_words},
    )
    logs = train(ours)
    return {
        "weights": [p.detach() for p in ours.model.parameters()],
        "state": str(ours.learner.state_dict()),
        "coefficients": [
            {key: value for key, value in row.items() if key.endswith("_coef")} for row in logs
        ],
        "kept": [row["recipe/kept"] for row in logs],
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    target, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    world_size = int(os.environ["WORLD_SIZE"])
    results = {name: ran(target, name, world_size) for name in RECIPES}
    torch.save(results, target / f"{rank}.pt")
    torch.distributed.destroy_process_group()
