"""Data parallelism with sharded state: ZeRO stages 2 and 3 by PyTorch's fully_shard, stage 1 by one flat buffer.

Stage 3 gathers each block's parameters for forward and again for backward, stage 2 once; both sum gradients in every
micro-step.  Stage 1 sums them once a step, updates a share on each worker and gathers the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from datahall.base.workload import Workload
from datahall.compute import execute
from datahall.compute.execute import Mark
from datahall.compute.execute_grid import Grid, Placed
from datahall.compute.execute_local import HoldsPieces, LocalState, add_up
from datahall.compute.execute_optimiser import allocate_state, optimiser_of
from datahall.compute.handed import FLAT_MULTIPLE
from datahall.compute.plan import ComputePlan


class FullySharded(HoldsPieces, Placed):
    """Parameters, gradients and the optimiser's state are spread over the data ranks (or over groups of them)."""

    blocked_in = "transfer"
    actions: list[tuple[str, int, int]] | None = None

    def __init__(self, workload: Workload, plan: ComputePlan, device: torch.device) -> None:
        self.loss, self.device = workload.loss, device
        self.module: nn.Module = workload.model.to(device)
        self.grid = Grid(plan, device)
        self.take_place(self.grid)
        execute.recompute_blocks(self.module, workload.cut_points, plan.recompute)
        dtype = execute.autocast_dtype(plan.precision)
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None)
        mesh = self.grid.along("replicate", "data")
        self.names = [name for name, _ in self.module.named_parameters()]
        for name in workload.cut_points:
            block = self.module.get_submodule(name)
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=plan.zero_stage == 3)
        fully_shard(self.module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self.state = LocalState(workload, dict(self.module.named_parameters()), self.names)

    def gradients(self, batches: Iterable[Any], micro_steps: int, mark: Mark) -> float:
        """As in Executor; PyTorch gives the mean over data ranks."""
        return float(add_up(batches, 1.0 / micro_steps, self._loss, mark)) / micro_steps

    def rehearse(self, batches: Iterable[Any]) -> None:
        """As in Executor; the parameters have to be gathered for it, by all workers together."""
        for batch in batches:
            self._loss(batch).backward()
        self.state.forget()

    def _loss(self, batch: Any) -> torch.Tensor:
        return self.loss(self.module, execute.to_device(batch, self.device))


class ShardedOptimiser(Placed):
    """ZeRO stage 1: every worker has all parameters, and updates its share of one flat buffer of them."""

    blocked_in = "transfer"
    actions: list[tuple[str, int, int]] | None = None

    def __init__(self, workload: Workload, plan: ComputePlan, device: torch.device) -> None:
        self.loss, self.device = workload.loss, device
        self.precision = execute.autocast_dtype(plan.precision)
        self.module: nn.Module = workload.model.to(device)
        execute.recompute_blocks(self.module, workload.cut_points, plan.recompute)
        self.grid = Grid(plan, device)
        self.take_place(self.grid)
        self.mesh = self.grid.along("data")
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.weights = _flatten(self.parameters, self.data_world, device)
        self.sums = torch.zeros_like(self.weights)
        self._point_gradients()
        share = self.weights.numel() // self.data_world
        own = slice(self.data_rank * share, (self.data_rank + 1) * share)
        self.share = nn.Parameter(self.weights[own])
        self.share.grad = self.sums[own]
        self.optimiser = optimiser_of(workload, [self.share])

    def gradients(self, batches: Iterable[Any], micro_steps: int, mark: Mark) -> float:
        """As in Executor.  The sum over workers of gradients scaled by 1 / (workers x micro-steps) is their mean."""
        total = add_up(batches, 1.0 / (micro_steps * self.data_world), self._loss, mark)
        if self.data_world > 1:
            mark("exchange")
            dist.reduce_scatter_tensor(self.share.grad, self.sums)
        return float(total) / micro_steps

    def rehearse(self, batches: Iterable[Any]) -> None:
        """As in Executor."""
        for batch in batches:
            self._loss(batch).backward()
        self.sums.zero_()

    def update(self) -> None:
        """As in Executor; the new parameters are gathered from all workers."""
        self.optimiser.step()
        if self.data_world > 1:
            dist.all_gather_into_tensor(self.weights, self.share.detach())
        self.sums.zero_()

    def tensors(self, *, complete: bool = False) -> dict[str, torch.Tensor]:
        """The flat buffer and the optimiser's state of it, shared out over the workers."""
        grad, self.share.grad = self.share.grad, None
        if complete and not self.optimiser.state:
            allocate_state(self.optimiser)
        self.share.grad = grad
        found = {f"model.{name}": parameter.detach() for name, parameter in self.module.named_parameters()}
        for kind, value in self.optimiser.state.get(self.share, {}).items():
            found[f"optimiser.flat.{kind}"] = self._spread(torch.as_tensor(value))
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """As in Executor."""
        prefix = "optimiser.flat."
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        self.optimiser.state[self.share] = {
            kind: (value.to_local() if isinstance(value, DTensor) else value).clone() for kind, value in state.items()
        }

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """As in Executor."""
        return execute.whole(dict(self.module.named_parameters()))

    def _loss(self, batch: Any) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not None):
            return self.loss(self.module, execute.to_device(batch, self.device))

    def _point_gradients(self) -> None:
        at = 0
        for parameter in self.parameters:
            parameter.grad = self.sums[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def _spread(self, value: torch.Tensor) -> torch.Tensor:
        if self.mesh is None or value.shape != self.share.shape:
            return value
        return DTensor.from_local(value, self.mesh, (Shard(0),), run_check=False)


def _flatten(parameters: list[nn.Parameter], workers: int, device: torch.device) -> torch.Tensor:
    """One buffer that the parameters become views of, as long as a multiple that any few workers divide."""
    count = sum(parameter.numel() for parameter in parameters)
    multiple = FLAT_MULTIPLE if FLAT_MULTIPLE % workers == 0 else FLAT_MULTIPLE * workers
    flat = torch.zeros(-(-count // multiple) * multiple, device=device)
    at = 0
    for parameter in parameters:
        view = flat[at : at + parameter.numel()].view_as(parameter)
        view.copy_(parameter.detach())
        parameter.data = view
        at += parameter.numel()
    return flat
