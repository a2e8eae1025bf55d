"""Tasks by name. Each builder takes seeds and gives a Task that holds all of them."""

from __future__ import annotations

from collections.abc import Callable

from sim.lab.task import Task
from sim.lab.tasks.bandits import needle, random_bandit, two_modes
from sim.lab.tasks.prompt_set import prompt_set
from sim.lab.tasks.token_tree import token_tree

__all__ = ["TASKS", "needle", "prompt_set", "random_bandit", "token_tree", "two_modes"]

TASKS: dict[str, Callable[..., Task]] = {
    "random_bandit": random_bandit,
    "needle": needle,
    "two_modes": two_modes,
    "token_tree": token_tree,
    "prompt_set": prompt_set,
}
