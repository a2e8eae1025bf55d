"""Every experiment by name, in the report's order: theory first, then the papers' claims."""

from __future__ import annotations

from sim.lab.experiment import Experiment
from sim.lab.experiments import (
    chain_rule,
    entropic_plant,
    entropy_collapse,
    first_order,
    sampled_update,
    sign_table,
)

__all__ = ["EXPERIMENTS"]

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        first_order,
        sampled_update,
        chain_rule,
        sign_table,
        entropic_plant,
        entropy_collapse,
    )
}
