"""FakeTensorMode refuses .item(), branching on a tensor, nonzero and boolean indexing."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from entropy_ext import TokenStats, recipes
from entropy_ext.rl import Rollout

B, T = 4, 3
# Autograd cannot run on fake CUDA tensors where PyTorch is built without CUDA.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_hooks_never_ask_the_device(name):
    recipe = recipes.get(name, entropy_coef=0.01, dual_clip=3.0)
    with FakeTensorMode():

        def per_token(grad=False):
            return torch.empty(B, T, device=DEVICE, requires_grad=grad)

        rollout = Rollout(
            tokens=torch.empty(B, T, dtype=torch.int64, device=DEVICE),
            mask=torch.empty(B, T, dtype=torch.bool, device=DEVICE),
            rewards=torch.empty(B, device=DEVICE),
            prompt=torch.empty(B, dtype=torch.int64, device=DEVICE),
            old_logp=per_token(),
            old_entropy=per_token(),
            ref_logp=per_token(),
            correct=torch.empty(B, dtype=torch.bool, device=DEVICE),
            max_length=T,
            step=0,
            progress=0.0,
        )
        rollout = rollout.replace(rewards=recipe.shape_rewards(rollout))
        kept = recipe.keep(rollout)
        targets = recipe.targets(rollout)
        stats = TokenStats(per_token(True), per_token(True), per_token(True))
        plan = recipe.prepare(TokenStats(*(x.detach() for x in stats[:3])), rollout, targets)
        loss, metrics = recipe.token_loss(stats, rollout, targets, plan)
        total = plan.aggregate(loss)
        total.backward()
        assert stats.logp.grad.shape == (B, T)
        outputs = [kept, targets.advantages, loss, total, plan.normalizer, *metrics.values()]
        assert {x.device.type for x in outputs} == {DEVICE}
        assert all(x.ndim == 0 and not x.requires_grad for x in metrics.values())
