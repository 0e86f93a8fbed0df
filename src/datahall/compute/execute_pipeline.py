"""Pipeline parallelism: PyTorch's schedules over stages that the workload cuts from its model.

GPipe, 1F1B, interleaved 1F1B and zero-bubble; a worker holds one stage, or `virtual_stages` of them.  Several copies
sum their gradients after the last micro-batch.  The order of every worker's work is kept, for the bubble.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from datahall.base.errors import Refused
from datahall.base.workload import Workload
from datahall.compute import execute
from datahall.compute.execute import Mark
from datahall.compute.execute_buffers import buffers_of, restore_buffers
from datahall.compute.execute_context import OwnTokens
from datahall.compute.execute_experts import Experts
from datahall.compute.execute_grid import Grid, Placed
from datahall.compute.execute_local import HoldsPieces, own_part, trained
from datahall.compute.execute_schedule import SCHEDULES, NotedStage, rounds_of, schedule_of
from datahall.compute.execute_sharded import spread
from datahall.compute.execute_tensor import check_tensor_cuts, cut_modules
from datahall.compute.layout import stage_layers
from datahall.compute.plan import ComputePlan


class Pipelined(HoldsPieces, Placed):
    """One worker's stages; micro-batches flow through all workers of its copy."""

    def __init__(self, workload: Workload, plan: ComputePlan, bucket_bytes: int, device: torch.device) -> None:
        check_stages(workload, plan)
        if plan.tensor > 1:
            check_tensor_cuts(workload, plan)
        self.workload, self.device = workload, device
        self.precision = execute.autocast_dtype(plan.precision)
        self.grid = Grid(plan, device)
        self.take_place(self.grid)
        self.stage_group = self.grid.group("pipeline")
        self.summed_late = plan.zero_stage < 2 or self.grid.layout.copies == 1
        model: nn.Module = workload.model.to(device)
        self.tokens = OwnTokens(workload, self.grid, device)
        execute.recompute_parts(model, workload, plan.recompute)
        self.shapes = {name: parameter.shape for name, parameter in trained([model]).items()}
        parts = self._cut(model, plan)
        self.experts = Experts(workload, plan, self.grid)
        self.parts = list(parts.values())
        earlier = [name for name, places in self.common.items() if places[0] != self.grid.place.stage]
        self.state = spread(
            workload, plan, self.parts, list(self.shapes), self.grid, self.experts, bucket_bytes, earlier
        )
        self.actions: list[tuple[str, int, int]] | None = []
        count = plan.pipeline * plan.virtual_stages
        self.stages = [
            NotedStage(part, index, count, device, self.stage_group, self.actions) for index, part in parts.items()
        ]
        self.first, self.last = self.stages[0].is_first, self.stages[-1].is_last
        self.schedule = schedule_of(plan, self.stages, self._loss)
        self.micro_batches = plan.accumulation
        self._warm_up(plan)

    def gradients(self, batches: Iterable[Any], micro_steps: int, mark: Mark) -> float | None:
        """As in Executor: one pass of the whole schedule."""
        whole = self._whole(list(batches))
        mark("forward")
        loss = self._pass(whole)
        self._sum_common()  # between stages, and waited for as all that they hand one another is
        self.sum_gradients(mark)
        return loss

    def rehearse(self, batches: Iterable[Any]) -> None:
        """As in Executor; the stages of a copy do it together."""
        self._pass(self._whole(list(batches)))
        self.state.forget()

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """As in Executor: each stage tells its parameters to the others of its copy."""
        found: dict[str, torch.Tensor] = {}
        owner_of = self._owners()
        own = {name: shape for name, shape in self.shapes.items() if owner_of[name] == self.grid.place.stage}
        held = self.experts.complete(execute.whole(self.state.held), own)
        for name, shape in self.shapes.items():
            mine = held.get(name)
            tensor = torch.empty(shape, device=self.device) if mine is None else mine.contiguous()
            dist.broadcast(tensor, group=self.stage_group, group_src=owner_of[name])
            found[name] = tensor
        return {**found, **self._whole_buffers()}

    def _whole_buffers(self) -> dict[str, torch.Tensor]:
        mine, found = execute.whole(buffers_of(self.parts)), dict[str, torch.Tensor]()
        for name, (owner, example) in self.buffers.items():
            found[name] = mine[name].clone() if owner == self.grid.place.stage else torch.empty_like(example)
            dist.broadcast(found[name], group=self.stage_group, group_src=owner)
        return found

    def _cut(self, model: nn.Module, plan: ComputePlan) -> dict[int, nn.Module]:
        """This worker's parts of the model, by stage, each cut over the tensor ranks."""
        ranks, self.shared = self.grid.along("tensor"), []
        count = plan.pipeline * plan.virtual_stages
        made: dict[int, nn.Module] = {}
        self.names_of: list[list[str]] = []
        self.buffers: dict[str, tuple[int, torch.Tensor]] = {}  # of all stages: who has it, and one of its shape
        for index in range(count):
            own = stage_layers(len(self.workload.cut_points), count, index)
            part = self.workload.cut(model, own.start, own.stop)  # pyright: ignore[reportOptionalCall]
            self.names_of.append([name for name, _ in part.named_parameters()])
            for name, buffer in buffers_of([part]).items():
                self.buffers.setdefault(name, (index % plan.pipeline, buffer))
            if index % plan.pipeline == self.grid.place.stage:
                made[index] = part
                self.shared += cut_modules(part, self.workload, plan, ranks)
                if self.summed_late:
                    _narrow(part, self.precision, self.device)
        learnt = [[name for name in names if name in self.shapes] for names in self.names_of]
        self.common = _common(learnt, plan.pipeline, self.grid.place.stage)
        return made

    def _loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scaled, so that the sum over micro-batches and copies is the mean."""
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not None):
            loss = self.workload.criterion(output, target)  # pyright: ignore[reportOptionalCall]
        return loss / (self.micro_batches * self.grid.layout.copies)

    def _whole(self, batches: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [self.tokens.split(batch) for batch in batches]
        inputs, targets = zip(*parts, strict=True)
        return torch.cat(inputs).to(self.device), torch.cat(targets).to(self.device)

    def _pass(self, whole: tuple[torch.Tensor, torch.Tensor]) -> float | None:
        self.stages[0].order.clear()
        losses: list[torch.Tensor] = []
        inputs = (whole[0],) if self.first else ()
        if self.last:
            self.schedule.step(*inputs, target=whole[1], losses=losses, return_outputs=False)
            return float(sum(loss.detach() for loss in losses)) * self.grid.layout.copies
        self.schedule.step(*inputs, return_outputs=False)
        return None

    def _sum_common(self) -> None:
        """Add up the gradients of parameters that other stages use too, in the same order on all of them."""
        for name, stages in self.common.items():
            mine = own_part(self.state.held[name])
            found = {stage: torch.empty_like(mine) for stage in stages}
            found[self.grid.place.stage] = mine
            others = [stage for stage in stages if stage != self.grid.place.stage]
            sends = [dist.P2POp(dist.isend, mine, group=self.stage_group, group_peer=stage) for stage in others]
            receives = [
                dist.P2POp(dist.irecv, found[stage], group=self.stage_group, group_peer=stage) for stage in others
            ]
            for work in dist.batch_isend_irecv([*sends, *receives]):
                work.wait()
            mine.copy_(torch.stack(list(found.values())).sum(0))

    def _warm_up(self, plan: ComputePlan) -> None:
        """One pass of nothing, for PyTorch's stages to tell each other their shapes; buffers stay as they were."""
        buffers = {name: buffer.clone() for name, buffer in buffers_of(self.parts).items()}
        ids = list(range(plan.micro_batch))
        batch = self.workload.data.batch([one % len(self.workload.data) for one in ids])
        self._pass(self._whole([batch] * plan.accumulation))
        self.state.forget()
        restore_buffers(self.parts, buffers)

    def _owners(self) -> dict[str, int]:
        stages = self.grid.layout.pipeline
        return {name: index % stages for index, names in enumerate(self.names_of) for name in names}


def _common(names_of: Sequence[Sequence[str]], workers: int, mine: int) -> dict[str, list[int]]:
    """The parameters that this worker's stages share with other workers', and the places of all these in the pipeline.

    Stages go round the `workers`; `mine` is this one's place.
    """
    users: dict[str, set[int]] = {}
    for index, names in enumerate(names_of):
        for name in names:
            users.setdefault(name, set()).add(index % workers)
    return {name: sorted(places) for name, places in users.items() if len(places) > 1 and mine in places}


def _narrow(part: nn.Module, dtype: torch.dtype | None, device: torch.device) -> None:
    """Have the part compute its products in `dtype`."""
    if dtype is None:
        return
    forward: Callable[..., Any] = part.forward

    def narrowed(*inputs: Any) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            return forward(*inputs)

    part.forward = narrowed


def check_stages(workload: Workload, plan: ComputePlan) -> None:
    """Refused unless a pipeline can run this workload by `plan`."""
    if workload.cut is None or workload.split is None or workload.criterion is None:
        raise Refused(
            f"{workload.name} does not say how a pipeline cuts it.",
            where="plan.compute.pipeline",
            hint="Give Workload.cut, split and criterion, or choose a plan with pipeline 1.",
        )
    several = plan.virtual_stages > 1
    if plan.schedule not in SCHEDULES or plan.schedule in (("gpipe", "1f1b") if several else ("interleaved",)):
        raise Refused(
            f"schedule {plan.schedule} with {plan.virtual_stages} stages a worker is planned but not run.",
            where="plan.compute.schedule",
            hint="What runs is gpipe and 1f1b with one stage a worker, interleaved with more, zero-bubble with either.",
        )
    if plan.schedule == "zero-bubble" and plan.recompute == "full":
        raise Refused(
            "a zero-bubble schedule does not recompute whole blocks: both halves of a backward pass need them.",
            where="plan.compute.recompute",
            hint="Choose recompute selective or none, or schedule 1f1b.",
        )
    if plan.accumulation % rounds_of(plan):
        raise Refused(
            f"{plan.accumulation} micro-batches are no whole rounds of {plan.pipeline} stages.",
            where="plan.compute.accumulation",
            hint="Choose a multiple of the stages.",
        )
    if len(workload.cut_points) < plan.pipeline * plan.virtual_stages:
        raise Refused(
            f"{workload.name} has {len(workload.cut_points)} blocks for {plan.pipeline * plan.virtual_stages} stages.",
            where="plan.compute.pipeline",
            hint="Choose fewer stages.",
        )
