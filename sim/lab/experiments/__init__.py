"""Every experiment by name, in the report's order: theory first, then the papers' claims."""

from __future__ import annotations

from sim.lab.experiment import Experiment
from sim.lab.experiments import (
    bcpg_beta,
    chain_rule,
    clip_thresholds,
    covariance_control,
    covariance_positive,
    data_diversity,
    data_domain,
    dr_grpo_bias,
    dynamic_sampling,
    entropic_plant,
    entropic_tracking,
    entropy_bonus,
    entropy_collapse,
    entropy_symptom,
    first_order,
    high_entropy_tokens,
    minirl_mismatch,
    neutral_update,
    off_policy_updates,
    opo_variance,
    positive_samples,
    positive_schedules,
    prorl_resets,
    psr_nsr_pass_at_k,
    reward_entropy_law,
    sampled_update,
    seed_scaling,
    sign_table,
    skywork_controller,
    steer_prediction,
    support_replay,
    token_level_loss,
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
        off_policy_updates,
        data_diversity,
        clip_thresholds,
        covariance_positive,
        positive_samples,
        reward_entropy_law,
        covariance_control,
        entropic_tracking,
        neutral_update,
        high_entropy_tokens,
        steer_prediction,
        positive_schedules,
        bcpg_beta,
        dr_grpo_bias,
        token_level_loss,
        dynamic_sampling,
        opo_variance,
        seed_scaling,
        entropy_bonus,
        skywork_controller,
        minirl_mismatch,
        prorl_resets,
        entropy_symptom,
        data_domain,
        support_replay,
        psr_nsr_pass_at_k,
    )
}
