"""ZeRO stage 1: flat buffers of what a worker trains, of which it updates a share.

One buffer for everything that the same workers hold: the worker's own pieces, whatever tensor ranks or stages cut of
the model, and apart from them its experts.  Gradients are summed once a step by a reduce-scatter, new parameters are
gathered after the update; nothing is hidden behind the backward pass.  Where groups of workers share a copy, shares are
also summed over the groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from datahall.base.workload import Workload
from datahall.compute.execute_local import like, local, tie, tied_names, trained
from datahall.compute.execute_optimiser import allocate_state, optimiser_of
from datahall.compute.handed import FLAT_MULTIPLE


@dataclass(frozen=True, slots=True)
class Holding:
    """Some of a worker's parameters, by name, and the workers that hold the same ones.

    `mesh` is of one dimension, or of groups by their members; None: there are no others.  `label` names the holding's
    buffer in a checkpoint.
    """

    names: Sequence[str]
    mesh: DeviceMesh | None
    label: str


class FlatState:
    """The trained parameters of some modules as views of a buffer for each holding; the optimiser of shares of them."""

    def __init__(self, workload: Workload, modules: Sequence[nn.Module], holdings: Sequence[Holding]) -> None:
        self.held = trained(modules)
        owners = {name: module for module in modules for name, _ in module.named_parameters()}
        ties = [(module, tied_names(module)) for module in modules]
        self.buffers = [_Buffer(holding, self.held, owners) for holding in holdings if holding.names]
        for module, names in ties:
            tie(module, names)
        self.optimiser = optimiser_of(workload, [buffer.share for buffer in self.buffers])

    def exchange(self) -> None:
        """Sum the gradients of this worker's shares over all workers that hold them."""
        for buffer in self.buffers:
            buffer.exchange()

    def update(self) -> None:
        """One step of the optimiser on the shares; parameters are gathered and gradients cleared."""
        self.optimiser.step()
        for buffer in self.buffers:
            buffer.gather()
        self.forget()

    def forget(self) -> None:
        """Clear the gradients."""
        for buffer in self.buffers:
            buffer.sums.zero_()

    def tensors(self, *, complete: bool) -> dict[str, torch.Tensor]:
        """Parameters, and the optimiser's state of the buffers, shared out over the workers."""
        if complete and not self.optimiser.state:
            allocate_state(self.optimiser)
            for buffer in self.buffers:
                buffer.use_sums()
        found = {f"model.{name}": parameter.detach() for name, parameter in self.held.items()}
        for buffer in self.buffers:
            for kind, value in self.optimiser.state.get(buffer.share, {}).items():
                found[buffer.prefix + kind] = buffer.spread(torch.as_tensor(value))
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        with torch.no_grad():
            for name, parameter in self.held.items():
                local(parameter).copy_(local(tensors[f"model.{name}"]))
        for buffer in self.buffers:
            named = {key: value for key, value in tensors.items() if key.startswith(buffer.prefix)}
            self.optimiser.state[buffer.share] = {
                key.removeprefix(buffer.prefix): local(value).clone() for key, value in named.items()
            }


class _Buffer:
    """The parameters of one holding as views of one buffer, their gradients as views of another."""

    def __init__(self, holding: Holding, held: dict[str, nn.Parameter], owners: Mapping[str, nn.Module]) -> None:
        self.mesh, self.prefix = holding.mesh, f"optimiser.{holding.label}."
        self.shards = 1 if self.mesh is None else self.mesh.size(-1)
        pieces = {name: local(held[name].detach()) for name in holding.names}
        count = sum(piece.numel() for piece in pieces.values())
        multiple = FLAT_MULTIPLE if FLAT_MULTIPLE % self.shards == 0 else FLAT_MULTIPLE * self.shards
        padded = -(-count // multiple) * multiple
        self.weights = torch.zeros(padded, device=next(iter(pieces.values())).device)
        self.sums = torch.zeros_like(self.weights)
        at = 0
        for name, piece in pieces.items():
            self._move_in(name, slice(at, at + piece.numel()), held, owners[name])
            at += piece.numel()
        rank = 0 if self.mesh is None else self.mesh.get_local_rank(-1)
        share = padded // self.shards
        self.own = slice(rank * share, (rank + 1) * share)
        self.share = nn.Parameter(self.weights[self.own])
        self.use_sums()

    def use_sums(self) -> None:
        """Let the gradient of the share be its part of the sums."""
        self.share.grad = self.sums[self.own]

    def exchange(self) -> None:
        """Sum the gradients of this worker's share over all workers that hold it."""
        if self.mesh is not None and self.shards > 1:
            dist.reduce_scatter_tensor(self.share.grad, self.sums, group=self.mesh.get_group(-1))
        if self.mesh is not None and self.mesh.ndim > 1:
            dist.all_reduce(self.share.grad, group=self.mesh.get_group(0))

    def gather(self) -> None:
        """Take over the other shares of the parameters."""
        if self.mesh is not None and self.shards > 1:
            dist.all_gather_into_tensor(self.weights, self.share.detach(), group=self.mesh.get_group(-1))

    def spread(self, value: torch.Tensor) -> torch.Tensor:
        """State of the share, as one of the shares of all workers; numbers stay as they are."""
        if self.mesh is None or value.shape != self.share.shape:
            return value
        copies = (Replicate(),) * (self.mesh.ndim - 1)
        return DTensor.from_local(value, self.mesh, (*copies, Shard(0)), run_check=False)

    def _move_in(self, name: str, part: slice, held: dict[str, nn.Parameter], owner: nn.Module) -> None:
        """Make a parameter a view of the buffer, and its gradient one of the sums."""
        parameter = held[name]
        piece = local(parameter.detach())
        view = self.weights[part].view_as(piece).copy_(piece)
        if isinstance(parameter, DTensor):  # which cannot be given other memory
            parameter = held[name] = nn.Parameter(like(parameter, view))
            path, _, leaf = name.rpartition(".")
            setattr(owner.get_submodule(path), leaf, parameter)
        else:
            parameter.data = view
        parameter.grad = like(parameter, self.sums[part].view_as(piece))
