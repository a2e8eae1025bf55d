"""The smallest engine that verl's own training machinery can drive: a bigram model on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import verl.utils.tensordict_utils as tu
import verl.utils.torch_functional as verl_F
from tensordict import TensorDict
from torch import Tensor, nn
from verl.workers.engine.base import BaseEngine
from verl.workers.engine.utils import postprocess_batch_func, prepare_micro_batches

VOCABULARY = 13


class BigramEngine(BaseEngine):
    """verl's BaseEngine and its micro-batching, with a model and nothing else of its own.

    Args:
        group: of data-parallel ranks, or None for one rank.
    """

    def __init__(self, group: Any = None) -> None:
        torch.manual_seed(0)
        self.module = nn.Embedding(VOCABULARY, VOCABULARY)
        self.module.weight.data.mul_(1.5)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.5)
        self.group = group
        self.step_optimizer = True
        self.forward_only_passes = 0

    def optimizer_zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def optimizer_step(self) -> float:
        if self.step_optimizer:
            self.optimizer.step()
        return 0.0

    def is_mp_src_rank_with_outputs(self) -> bool:
        return True

    def get_data_parallel_group(self) -> Any:
        return self.group

    def get_data_parallel_size(self) -> int:
        return 1 if self.group is None else torch.distributed.get_world_size(self.group)

    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        Path(local_path).mkdir(parents=True, exist_ok=True)
        torch.save(self.module.state_dict(), Path(local_path) / "model.pt")

    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        self.module.load_state_dict(torch.load(Path(local_path) / "model.pt"))

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Any, forward_only: bool = False
    ) -> Any:
        self.forward_only_passes += forward_only
        tokens = data["loss_mask"].sum()
        if self.group is not None:
            torch.distributed.all_reduce(tokens, group=self.group)
        tu.assign_non_tensor(data, batch_num_tokens=tokens.item())
        tu.assign_non_tensor(data, dp_size=self.get_data_parallel_size())
        micro_batches, indices = prepare_micro_batches(data=data, dp_group=self.group)
        outputs = []
        for micro_batch in micro_batches:
            with torch.set_grad_enabled(not forward_only):
                model_output = self._forward(micro_batch)
                loss, metrics = torch.tensor(1.0), {}
                if loss_function is not None:
                    loss, metrics = loss_function(
                        model_output=model_output, data=micro_batch, dp_group=self.group
                    )
            if not forward_only:
                loss.backward()
            detached = {name: value.detach() for name, value in model_output.items()}
            outputs.append(
                {"model_output": detached, "loss": loss.detach().item(), "metrics": metrics}
            )
        return postprocess_batch_func(output_lst=outputs, indices=indices, data=data)

    def _forward(self, micro_batch: TensorDict) -> dict[str, Tensor]:
        ids = micro_batch["input_ids"]
        logits = self.module(ids.values())
        labels = ids.values().roll(-1)
        output = {"log_probs": verl_F.logprobs_from_logits(logits, labels)}
        if tu.get_non_tensor_data(micro_batch, "calculate_entropy", False):
            output["entropy"] = verl_F.entropy_from_logits(logits)
        return {
            name: torch.nested.nested_tensor_from_jagged(value, ids.offsets())
            for name, value in output.items()
        }


def training_data(seed: int, *, rows: int = 8, micro_batch: int = 2) -> TensorDict:
    """What verl's workers update an actor with: nested tensors, none padded."""
    draw = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    prompts = [torch.randint(0, VOCABULARY, (some(1, 4),), generator=draw) for _ in range(rows)]
    answers = [torch.randint(0, VOCABULARY, (some(2, 9),), generator=draw) for _ in range(rows)]
    lengths = [len(answer) for answer in answers]
    sizes = torch.tensor(lengths)
    advantages = torch.randn(rows, generator=draw)

    def nested(parts: list[Tensor]) -> Tensor:
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    def per_token(scale: float) -> Tensor:
        return nested([-scale * torch.rand(length, generator=draw) for length in lengths])

    texts = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    loss_masks = [
        torch.cat([torch.zeros_like(prompt), torch.ones_like(answer)])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    data = TensorDict(
        {
            "prompts": nested(prompts),
            "responses": nested(answers),
            "input_ids": nested(texts),
            "loss_mask": nested(loss_masks),
            "response_mask": nested([torch.ones(length) for length in lengths]),
            "old_log_probs": per_token(4.0),
            "ref_log_prob": per_token(4.0),
            "rollout_log_probs": per_token(4.0),
            "entropy": nested([2.0 * torch.rand(length, generator=draw) for length in lengths]),
            "advantages": nested(list(advantages.repeat_interleave(sizes).split(lengths))),
        },
        batch_size=[rows],
    )
    tu.assign_non_tensor(
        data,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=micro_batch,
        global_batch_size=rows,
        update_lr_scheduler=True,
    )
    return data
