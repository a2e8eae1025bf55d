"""Adds recipes to verl's registries, and removes them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from entropy_ext import recipes
from entropy_ext.integrations.verl.actor import Actor
from entropy_ext.integrations.verl.advantages import advantage_estimator
from entropy_ext.integrations.verl.coverage import COVERAGE, PREFIX, route
from entropy_ext.integrations.verl.installed import require_verl
from entropy_ext.integrations.verl.losses import policy_loss
from entropy_ext.recipes import Recipe

__all__ = ["attach", "register", "unregister"]

_hooked: dict[str, Callable[[], Recipe]] = {}
_new_engine: list[Any] = []


def register(
    options: Mapping[str, Mapping[str, Any]] | None = None, *, correct_above: float | None = None
) -> None:
    """Add every recipe to verl's policy losses and advantage estimators as entropy_ext/<name>.

    Set actor.policy_loss.loss_mode and algorithm.adv_estimator to such names, and
    actor.loss_agg_mode to the recipe's aggregation. Engines built afterwards have the actor hook,
    see `Actor`. This must run in every process of verl: in VERL_USE_EXTERNAL_MODULES, name a module
    that calls it, or `entropy_ext.integrations.verl.plugin`, which uses all defaults. A second call
    replaces the first.

    Args:
        options: recipe → arguments of its class, {"dapo": {"clip_high": 0.3}}.
        correct_above: responses with a greater reward count as right, for recipes whose advantages
            use only whether an answer is right.

    Raises:
        ImportError: verl is missing, or its version is not a tested one.
        ValueError, TypeError: an unknown recipe or option.
    """
    require_verl()
    given = dict(options or {})
    if unknown := sorted(given.keys() - COVERAGE.keys()):
        raise ValueError(f"options: expected names of recipes, got {', '.join(unknown)}")

    def made(name: str) -> Recipe:
        return recipes.get(name, **given.get(name, {}))

    fresh = {name: made(name) for name in COVERAGE}
    unregister()
    core = importlib.import_module("verl.trainer.ppo.core_algos")
    for name, recipe in fresh.items():
        mode = PREFIX + name
        core.register_policy_loss(mode)(policy_loss(recipe))
        core.register_adv_est(mode)(advantage_estimator(recipe, correct_above=correct_above))
        if route(recipe) == "actor hook":
            _hooked[mode] = _maker(made, name)
    registry = importlib.import_module("verl.workers.engine").EngineRegistry
    new = registry.new
    _new_engine.append(registry.__dict__["new"])

    def hooked_new(*args: Any, **kwargs: Any) -> Any:
        engine = new(*args, **kwargs)
        attach(engine)
        return engine

    registry.new = staticmethod(hooked_new)


def unregister() -> None:
    """Remove what `register` added; existing engines keep their hook."""
    require_verl()
    core = importlib.import_module("verl.trainer.ppo.core_algos")
    for registry in (core.POLICY_LOSS_REGISTRY, core.ADV_ESTIMATOR_REGISTRY):
        for name in COVERAGE:
            registry.pop(PREFIX + name, None)
    _hooked.clear()
    if _new_engine:
        importlib.import_module("verl.workers.engine").EngineRegistry.new = _new_engine.pop()


def attach(engine: Any) -> Actor:
    """Install the actor hook in one engine; `register` does so for engines that verl builds."""
    read = frozenset(name for name, coverage in COVERAGE.items() if coverage.entropy)
    return Actor(engine, dict(_hooked), read)


def _maker(made: Callable[[str], Recipe], name: str) -> Callable[[], Recipe]:
    return lambda: made(name)
