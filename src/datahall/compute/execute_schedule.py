"""PyTorch's pipeline schedules and stages, with notes of their order, and with ZeRO in all of them.

Which part of a model a stage holds, and what becomes of gradients after the last micro-batch, is `execute_pipeline`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from datahall.compute.plan import ComputePlan
from datahall.compute.schedule import Action


class _AnyCount(Schedule1F1B):
    """1F1B with fewer micro-batches than stages too, which PyTorch's refuses and yet takes in the right order."""

    def __init__(self, stage: PipelineStage, micro_batches: int, **named: Any) -> None:
        super(Schedule1F1B, self).__init__(stage, micro_batches, **named)


SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": _AnyCount,
    "interleaved": ScheduleInterleaved1F1B,
    "zero-bubble": ScheduleInterleavedZeroBubble,  # of one stage a worker: ZB-H1 of arXiv 2401.10241
}
_OF_SEVERAL = ("interleaved", "zero-bubble")  # schedules whose worker may have several stages


class NotedStage(PipelineStage):
    """PyTorch's stage, which notes what it is asked to do, and takes half a backward pass of spread parameters too."""

    def __init__(
        self,
        part: nn.Module,
        index: int,
        count: int,
        device: torch.device,
        group: dist.ProcessGroup | None,
        order: list[Action],
    ) -> None:
        super().__init__(part, index, count, device, group=group)
        self.order = order
        self.gathered: list[nn.Parameter] = []

    def forward_one_chunk(self, fwd_chunk_id: int, *arguments: Any, **named: Any) -> Any:
        self.order.append(("F", self.stage_index, fwd_chunk_id))
        return super().forward_one_chunk(fwd_chunk_id, *arguments, **named)

    def backward_one_chunk(self, bwd_chunk_id: int, *arguments: Any, **named: Any) -> Any:
        self.order.append(("B" if named.get("full_backward", True) else "I", self.stage_index, bwd_chunk_id))
        return super().backward_one_chunk(bwd_chunk_id, *arguments, **named)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *arguments: Any, **named: Any) -> Any:
        self.order.append(("W", self.stage_index, bwd_chunk_id))
        return super().backward_weight_one_chunk(bwd_chunk_id, *arguments, **named)

    def backward_maybe_with_nosync(
        self, backward_type: Any, bwd_kwargs: dict[str, Any], last_backward: bool = False
    ) -> Any:
        """As PyTorch's; but a half pass looks for gathered parameters, which are the ones that were computed with.

        PyTorch asks the module for its parameters, which are the shards wherever a forward pass came in between.  Where
        no input has a gradient the second half does it all, as PyTorch's first stage does.
        """
        if backward_type == "weight" and "input_values" in bwd_kwargs["param_groups"]:
            put_off = dict(bwd_kwargs["param_groups"])
            if put_off["output_grads"] is None:  # of the last stage, whose output is the loss
                (put_off["stage_output"],) = put_off["stage_output"]
            return super().backward_maybe_with_nosync("full", put_off, last_backward)
        if backward_type == "input" and not any(one.requires_grad for one in bwd_kwargs["input_values"]):
            return (None,) * len(bwd_kwargs["input_values"]), bwd_kwargs
        if backward_type == "full" or not isinstance(self.submod, FSDPModule):
            return super().backward_maybe_with_nosync(backward_type, bwd_kwargs, last_backward)
        if backward_type == "weight":
            return stage_backward_weight(iter(self.gathered), bwd_kwargs["param_groups"]), None
        self.gathered = _gathered(self.submod)
        outputs, gradients, inputs = (bwd_kwargs[name] for name in ("stage_output", "output_grads", "input_values"))
        return stage_backward_input(outputs, gradients, inputs, iter(self.gathered))


def schedule_of(plan: ComputePlan, stages: Sequence[NotedStage], loss: Callable[..., torch.Tensor]) -> Any:
    """PyTorch's schedule of a worker's stages."""
    given = stages if plan.schedule in _OF_SEVERAL else stages[0]
    schedule = SCHEDULES[plan.schedule](given, plan.accumulation, loss_fn=loss, scale_grads=False)
    if plan.schedule in _OF_SEVERAL:
        orders = schedule.pipeline_order_with_comms
        schedule.pipeline_order_with_comms = {rank: _kept_gathered(order) for rank, order in orders.items()}
    return schedule


def rounds_of(plan: ComputePlan) -> int:
    """The rounds that a schedule takes its micro-batches in, equally many in each."""
    return max(1, plan.accumulation // plan.pipeline) if plan.schedule in _OF_SEVERAL else 1


def _gathered(part: FSDPModule) -> list[nn.Parameter]:
    """The parameters of a stage, gathered to stay so; they are the same tensors each time that they are gathered."""
    part.set_is_last_backward(False)
    part.set_reshard_after_backward(False)
    part.set_requires_gradient_sync(False)
    module: Any = part
    for inside in module.modules():
        if isinstance(inside, FSDPModule):
            inside.unshard()
    return list(module.parameters())


def _kept_gathered(order: Sequence[Any]) -> list[Any]:
    """A worker's order in which each stage is gathered by ZeRO before its first pass, and given back after its last.

    PyTorch keeps the three stages that come next, and so would gather the others anew in each round.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, action in enumerate(order):
        if action.computation_type == "UNSHARD":
            first.setdefault(action.stage_index, at)
        if action.computation_type == "RESHARD":
            last[action.stage_index] = at
    kept = {*first.values(), *last.values()}
    return [one for at, one in enumerate(order) if at in kept or one.computation_type not in ("UNSHARD", "RESHARD")]
