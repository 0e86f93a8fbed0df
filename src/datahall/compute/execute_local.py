"""What a split worker holds: the optimiser over its own pieces, checkpoints by parameter, sums over data ranks.

The optimiser works on plain tensors that share memory with the model's parameters, so that the fused kernel runs
whatever the split.  It must therefore be element-wise, as Adam and SGD are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from datahall.base.workload import Workload
from datahall.compute import execute
from datahall.compute.execute_optimiser import allocate_state, optimiser_of


class LocalState:
    """The parameters of one worker under their names in the whole model, and the optimiser of its pieces.

    `names` are all parameters of the whole model, in order: their positions name the optimiser's state in a checkpoint.
    """

    def __init__(self, workload: Workload, held: Mapping[str, nn.Parameter], names: Sequence[str]) -> None:
        self.held = dict(held)
        self.positions = {name: position for position, name in enumerate(names)}
        self.pieces = {name: nn.Parameter(local(parameter.detach())) for name, parameter in self.held.items()}
        self.optimiser = optimiser_of(workload, list(self.pieces.values()))

    def gradients(self) -> list[torch.Tensor]:
        """This worker's gradients, in the order of its parameters."""
        return [_own_part(parameter) for parameter in self.held.values() if parameter.grad is not None]

    def update(self) -> None:
        """One step of the optimiser; gradients are cleared."""
        for name, parameter in self.held.items():
            self.pieces[name].grad = None if parameter.grad is None else _own_part(parameter)
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
                found[f"optimiser.{self.positions[name]}.{kind}"] = _like(self.held[name], torch.as_tensor(value))
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
    """The part of an executor that is the same wherever a worker's parameters are a LocalState."""

    state: LocalState

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """As in Executor."""
        return self.state.optimiser

    def update(self) -> None:
        """As in Executor."""
        self.state.update()

    def tensors(self, *, complete: bool = False) -> dict[str, torch.Tensor]:
        """As in Executor."""
        return self.state.tensors(complete=complete)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """As in Executor."""
        self.state.restore(tensors)

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """As in Executor."""
        return execute.whole(self.state.held)


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


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this worker holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _own_part(parameter: nn.Parameter) -> torch.Tensor:
    """This worker's part of a parameter's gradient; one that every worker has whole is cut like its parameter."""
    gradient = parameter.grad
    assert gradient is not None
    if isinstance(parameter, DTensor) and isinstance(gradient, DTensor) and gradient.placements != parameter.placements:
        parameter.grad = gradient = gradient.redistribute(placements=parameter.placements)
    return local(gradient)


def sum_in_buckets(gradients: Sequence[torch.Tensor], bucket_bytes: int, group: dist.ProcessGroup) -> None:
    """Replace gradients by their sums over `group`, some at once; nothing is hidden behind arithmetic."""
    bucket: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        count = gradient.numel() * gradient.element_size()
        if bucket and size + count > bucket_bytes:
            _sum(bucket, group)
            bucket, size = [], 0
        bucket.append(gradient)
        size += count
    if bucket:
        _sum(bucket, group)


def _sum(bucket: Sequence[torch.Tensor], group: dist.ProcessGroup) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
    dist.all_reduce(flat, group=group)
    parts = flat.split([gradient.numel() for gradient in bucket])
    for gradient, part in zip(bucket, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
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
