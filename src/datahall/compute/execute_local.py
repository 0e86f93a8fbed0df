"""What a split worker holds: the optimiser over its own pieces, checkpoints by parameter, sums over data ranks.

The optimiser works on plain tensors that share memory with the model's parameters, so that the fused kernel runs
whatever the split.  It must therefore be element-wise, as Adam and SGD are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from datahall.base.workload import Workload
from datahall.compute import execute
from datahall.compute.execute_buffers import agreed_buffers, buffers_of, restore_buffers
from datahall.compute.execute_context import OwnTokens
from datahall.compute.execute_experts import Experts
from datahall.compute.execute_grid import Grid, Placed
from datahall.compute.execute_optimiser import allocate_state, optimiser_of
from datahall.compute.execute_sums import largest_share, sum_evenly, sum_in_buckets
from datahall.compute.plan import ComputePlan


class State(Protocol):
    """What a worker trains: parameters, their gradients and their optimiser."""

    held: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer

    def untaught(self) -> Iterable[str]:
        """Names of what this worker trains and that got no gradient in this step."""
        ...

    def exchange(self) -> None:
        """Sum the gradients over the workers that hold the same parameters."""
        ...

    def update(self) -> None:
        """One step of the optimiser; gradients are cleared."""
        ...

    def forget(self) -> None:
        """Clear the gradients."""
        ...

    def tensors(self, *, complete: bool) -> dict[str, torch.Tensor]:
        """Parameters and the optimiser's state for a checkpoint: shards as DTensors, the rest plain."""
        ...

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        ...


class LocalState:
    """The trained parameters of one worker under their names in the whole model, and the optimiser of its pieces.

    `names` are those of the whole model, in order: their positions name the optimiser's state in a checkpoint.
    `summed` are groups and the parameters that all of one hold; gradients are summed over them once a step, in buckets.
    """

    def __init__(
        self,
        workload: Workload,
        modules: Sequence[nn.Module],
        names: Sequence[str],
        summed: Sequence[tuple[dist.ProcessGroup, Sequence[str]]] = (),
        bucket_bytes: int = 0,
    ) -> None:
        self.held = trained(modules)
        self.summed, self.bucket_bytes = summed, bucket_bytes
        self.positions = {name: position for position, name in enumerate(names)}
        self.pieces = {name: nn.Parameter(local(parameter.detach())) for name, parameter in self.held.items()}
        nothing = [nn.Parameter(torch.zeros(0))]  # for a stage that is all frozen: an optimiser wants something
        self.optimiser = optimiser_of(workload, list(self.pieces.values()) or nothing)

    def untaught(self) -> Iterable[str]:
        """Names of what this worker trains and that got no gradient in this step."""
        return (name for name, parameter in self.held.items() if parameter.grad is None)

    def exchange(self) -> None:
        """Sum the gradients over the workers that hold the same parameters."""
        for group, names in self.summed:
            own = [own_part(self.held[name]) for name in names]
            sum_in_buckets(own, self.bucket_bytes, group)

    def update(self) -> None:
        """One step of the optimiser; gradients are cleared."""
        for name, parameter in self.held.items():
            self.pieces[name].grad = own_part(parameter)
        self.optimiser.step()
        self.forget()

    def forget(self) -> None:
        """Clear the gradients."""
        for name, parameter in self.held.items():
            parameter.grad = None
            self.pieces[name].grad = None

    def tensors(self, *, complete: bool) -> dict[str, torch.Tensor]:
        """Parameters and the optimiser's state for a checkpoint: shards as DTensors, the rest plain."""
        if complete and not self.optimiser.state:
            allocate_state(self.optimiser)
        found = {f"model.{name}": parameter.detach() for name, parameter in self.held.items()}
        for name, piece in self.pieces.items():
            for kind, value in self.optimiser.state.get(piece, {}).items():
                found[f"optimiser.{self.positions[name]}.{kind}"] = like(self.held[name], torch.as_tensor(value))
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        with torch.no_grad():
            for name, piece in self.pieces.items():
                piece.copy_(local(tensors[f"model.{name}"]))
                prefix = f"optimiser.{self.positions[name]}."
                state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                self.optimiser.state[piece] = {kind: local(value).clone() for kind, value in state.items()}


class HoldsPieces:
    """The part of an executor that is the same wherever a worker's parameters are a state of this room.

    `shared` are the parameters that each tensor rank uses on its share of the sequence only.
    """

    state: State
    parts: Sequence[nn.Module]  # of the model, as this worker holds them
    grid: Grid
    experts: Experts
    shapes: Mapping[str, torch.Size]  # of all trained parameters of the whole model
    shared: Sequence[str] = ()
    summed_late: bool  # gradients over data and context ranks; else PyTorch sums them in each micro-step

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """As in Executor."""
        return self.state.optimiser

    def update(self) -> None:
        """As in Executor."""
        self.state.update()

    def tensors(self, *, complete: bool = False) -> dict[str, torch.Tensor]:
        """As in Executor."""
        ranks = self.grid.holders()
        buffers = agreed_buffers(self.parts, None if ranks is None else ranks.get_group())
        return {**self.state.tensors(complete=complete), **execute.in_checkpoint(buffers)}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """As in Executor."""
        self.state.restore(tensors)
        restore_buffers(self.parts, execute.of_model(tensors))

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """As in Executor."""
        whole = self.experts.complete(execute.whole(self.state.held), self.shapes)
        return {**whole, **execute.whole(buffers_of(self.parts))}

    def sum_gradients(self, mark: execute.Mark) -> None:
        """Sum what is not summed yet when the last backward pass is over."""
        execute.check_taught(self.state.untaught())
        ranks = self.grid.group("tensor") if self.shared else None
        late = self.summed_late and self.grid.layout.copies > 1
        if ranks is not None or late:
            mark("exchange")
        if ranks is not None:
            held = self.state.held  # of experts only this worker's
            shared = [held[name] for name in self.shared if name in held]
            sum_evenly([own_part(one) for one in shared], [largest_share(one) for one in shared], ranks)
        if late:
            self.state.exchange()


class HoldsModel(HoldsPieces, Placed):
    """The part of an executor that is the same wherever each worker takes whole micro-batches through whole blocks."""

    stage_group: dist.ProcessGroup | None = None
    actions: list[tuple[str, int, int]] | None = None

    def __init__(self, workload: Workload, plan: ComputePlan, device: torch.device) -> None:
        self.grid = Grid(plan, device)
        self.take_place(self.grid)
        self.device = device
        self.summed_late = plan.zero_stage < 2 or self.grid.layout.copies == 1
        self.precision = execute.autocast_dtype(plan.precision) if self.summed_late else None
        self.module: nn.Module = workload.model.to(device)
        self.parts = [self.module]
        self.tokens = OwnTokens(workload, self.grid, device)
        execute.recompute_parts(self.module, workload, plan.recompute)
        self.shapes = {name: parameter.shape for name, parameter in trained([self.module]).items()}
        self.experts = Experts(workload, plan, self.grid)

    def gradients(self, batches: Iterable[Any], micro_steps: int, mark: execute.Mark) -> float:
        """As in Executor.  The sum over workers of gradients scaled by 1 / (workers x micro-steps) is their mean."""
        total = add_up(batches, 1.0 / (micro_steps * self.grid.layout.copies), self._loss, mark)
        self.sum_gradients(mark)
        return float(total) / micro_steps

    def rehearse(self, batches: Iterable[Any]) -> None:
        """As in Executor; workers that share a copy do it together."""
        for batch in batches:
            self._loss(batch).backward()
        self.state.forget()

    def _loss(self, batch: Any) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not None):
            return self.tokens.loss(self.module, execute.to_device(batch, self.device))


def add_up(
    batches: Iterable[Any], scale: float, loss_of: Callable[[Any], torch.Tensor], mark: execute.Mark
) -> torch.Tensor | float:
    """Add up the gradients of a step's micro-batches, each loss times `scale`; the sum of the losses themselves."""
    total: torch.Tensor | float = 0.0
    for batch in batches:
        mark("forward")
        loss = loss_of(batch)
        mark("backward")
        (loss * scale).backward()
        total = total + loss.detach()
    return total


def trained(modules: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """What the modules train, by name; a parameter that two of its modules share has the first one's."""
    named = [one for module in modules for one in module.named_parameters()]
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def tied_names(module: nn.Module) -> dict[str, str]:
    """Of parameters that a module has under several names, each other name to the first."""
    first: dict[int, str] = {}
    named = list(module.named_parameters(remove_duplicate=False))
    for name, parameter in named:
        first.setdefault(id(parameter), name)
    return {name: first[id(parameter)] for name, parameter in named if first[id(parameter)] != name}


def tie(module: nn.Module, names: Mapping[str, str]) -> None:
    """Make parameters one again that were replaced under their first names, as `tied_names` told them."""
    for name, first in names.items():
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, module.get_parameter(first))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this worker holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` cut over workers as `parameter` is; numbers that are no piece of it stay as they are."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.to_local().shape:
        return value
    return DTensor.from_local(
        value,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def own_part(parameter: nn.Parameter) -> torch.Tensor:
    """This worker's part of a parameter's gradient; one that every worker has whole is cut like its parameter."""
    gradient = parameter.grad
    assert gradient is not None
    if isinstance(parameter, DTensor) and isinstance(gradient, DTensor) and gradient.placements != parameter.placements:
        parameter.grad = gradient = gradient.redistribute(placements=parameter.placements)
    return local(gradient)
