"""A recipe's hooks for many seeds at once where that is the same, else one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from entropy_ext.recipes import Recipe
from entropy_ext.rl import Rollout
from sim.lab.held import Held, Named

__all__ = ["Hook", "alike", "over_seeds", "overrides"]

Hook: TypeAlias = Callable[..., Named]


def overrides(recipe: Recipe, hook: str) -> bool:
    """Whether the recipe does something of its own there."""
    return getattr(type(recipe), hook) is not getattr(Recipe, hook)


def alike(recipes: Sequence[Recipe]) -> bool:
    """Whether one of these may stand for all in hooks of tensors alone.

    It may if it is the library's, keeps no state, looks at nothing that is no tensor, and all have
    the same class and options. (`compose` makes a class at each call.)
    """
    first = recipes[0]
    return (
        type(first).__module__.startswith("entropy_ext.")
        and not first.state_dict()
        and not first.needs & {"answers", "support"}
        and all(type(r) is type(first) and vars(r) == vars(first) for r in recipes)
    )


def over_seeds(
    held: Held, recipes: Sequence[Recipe], together: bool, hook: Hook, *parts: Named
) -> Named:
    """hook(recipe, rollout, *parts) for every seed; the results stacked, [M, …] each.

    Args:
        held: of M seeds.
        recipes: of all seeds of the task.
        together: one call for all seeds by torch.vmap, with the first of the recipes; the rollout
            then has neither answers nor support. Else one call for each seed.
        hook: gives tensors by name.
        parts: [M, …] each; the hook is given those of its seed.
    """
    if together and len(held.seeds) > 1:
        fields = {name: value for name, value in held.fields.items() if name != "answers"}

        def one(mine: Named, *own: Named) -> Named:
            common: dict[str, Any] = {**held.common, **mine}
            return hook(recipes[0], Rollout(**common), *own)

        with warnings.catch_warnings():
            # Sorting into groups is a loop over the seeds under vmap, as it would be without.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            found: Named = torch.vmap(one)(fields, *parts)
        return found
    # unbind and not value[m]: its backward stacks the seeds' gradients once.
    every = [{name: value.unbind() for name, value in part.items()} for part in parts]
    results = [
        hook(recipes[n], rollout, *({name: x[m] for name, x in part.items()} for part in every))
        for m, (n, rollout) in enumerate(zip(held.seeds.tolist(), held.rollouts(), strict=True))
    ]
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


def _looped(operator: Any) -> Callable[..., tuple[Tensor, int]]:
    def rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
        results = [
            operator(
                *(
                    x if dim is None else x.select(dim, n)
                    for x, dim in zip(arguments, in_dims, strict=True)
                )
            )
            for n in range(info.batch_size)
        ]
        return torch.stack(results), 0

    return rule


# Selections look at all tokens of a mini-batch: under vmap one call for each seed's.
for _name in (
    "token_moments",
    "covariance",
    "clip_cov",
    "kl_cov",
    "top_entropy",
    "entropy_change",
    "steer_weights",
):
    torch.library.register_vmap(
        f"entropy_ext::{_name}", _looped(getattr(torch.ops.entropy_ext, _name))
    )
