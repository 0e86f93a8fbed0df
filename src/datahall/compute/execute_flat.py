"""ZeRO stage 1: one flat buffer of what a worker trains, of which it updates a share.

The buffer holds the worker's own pieces, whatever tensor ranks or stages cut of the model.  Gradients are summed once a
step by a reduce-scatter, new parameters are gathered after the update; nothing is hidden behind the backward pass.
Where groups of workers share a copy, shares are also summed over the groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from datahall.base.workload import Workload
from datahall.compute.execute_local import like, local, tie, tied_names, trained
from datahall.compute.execute_optimiser import allocate_state, optimiser_of
from datahall.compute.handed import FLAT_MULTIPLE

_PREFIX = "optimiser.flat."


class FlatState:
    """The trained parameters of some modules as views of one buffer, and the optimiser of this worker's share of it.

    `mesh` are the workers that hold the same parameters: of one dimension, or of groups by their members.  None: there
    are no others.  `place` ("stage.tensor.") tells the buffers of a split model apart in a checkpoint.
    """

    def __init__(
        self, workload: Workload, modules: Sequence[nn.Module], mesh: DeviceMesh | None, place: str = ""
    ) -> None:
        self.mesh, self.prefix = mesh, _PREFIX + place
        self.shards = 1 if mesh is None else mesh.size(-1)
        self.held = trained(modules)
        count = sum(local(parameter).numel() for parameter in self.held.values())
        multiple = FLAT_MULTIPLE if FLAT_MULTIPLE % self.shards == 0 else FLAT_MULTIPLE * self.shards
        padded = -(-count // multiple) * multiple
        some = local(next(iter(self.held.values())))
        self.weights = torch.zeros(padded, device=some.device)
        self.sums = torch.zeros_like(self.weights)
        self._move_in(modules)
        rank = 0 if mesh is None else mesh.get_local_rank(-1)
        share = padded // self.shards
        own = slice(rank * share, (rank + 1) * share)
        self.share = nn.Parameter(self.weights[own])
        self.share.grad = self.sums[own]
        self.optimiser = optimiser_of(workload, [self.share])

    def exchange(self) -> None:
        """Sum the gradients of this worker's share over all workers that hold it."""
        if self.mesh is None:
            return
        dist.reduce_scatter_tensor(self.share.grad, self.sums, group=self.mesh.get_group(-1))
        if self.mesh.ndim > 1:
            dist.all_reduce(self.share.grad, group=self.mesh.get_group(0))

    def update(self) -> None:
        """One step of the optimiser on the share; parameters are gathered and gradients cleared."""
        self.optimiser.step()
        if self.mesh is not None:
            dist.all_gather_into_tensor(self.weights, self.share.detach(), group=self.mesh.get_group(-1))
        self.forget()

    def forget(self) -> None:
        """Clear the gradients."""
        self.sums.zero_()

    def tensors(self, *, complete: bool) -> dict[str, torch.Tensor]:
        """Parameters, and the optimiser's state of the buffer, shared out over the workers."""
        grad, self.share.grad = self.share.grad, None
        if complete and not self.optimiser.state:
            allocate_state(self.optimiser)
        self.share.grad = grad
        found = {f"model.{name}": parameter.detach() for name, parameter in self.held.items()}
        for kind, value in self.optimiser.state.get(self.share, {}).items():
            found[self.prefix + kind] = self._spread(torch.as_tensor(value))
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        with torch.no_grad():
            for name, parameter in self.held.items():
                local(parameter).copy_(local(tensors[f"model.{name}"]))
        named = {key: value for key, value in tensors.items() if key.startswith(self.prefix)}
        self.optimiser.state[self.share] = {
            key.removeprefix(self.prefix): local(value).clone() for key, value in named.items()
        }

    def _move_in(self, modules: Sequence[nn.Module]) -> None:
        """Make the parameters views of the buffer, and their gradients views of the sums."""
        owners = {name: module for module in modules for name, _ in module.named_parameters()}
        ties = [(module, tied_names(module)) for module in modules]
        at = 0
        for name, parameter in self.held.items():
            piece = local(parameter.detach())
            part = slice(at, at + piece.numel())
            at = part.stop
            view = self.weights[part].view_as(piece).copy_(piece)
            if isinstance(parameter, DTensor):  # which cannot be given other memory
                parameter = self.held[name] = nn.Parameter(like(parameter, view))
                path, _, leaf = name.rpartition(".")
                setattr(owners[name].get_submodule(path), leaf, parameter)
            else:
                parameter.data = view
            parameter.grad = like(parameter, self.sums[part].view_as(piece))
        for module, names in ties:
            tie(module, names)

    def _spread(self, value: torch.Tensor) -> torch.Tensor:
        if self.mesh is None or value.shape != self.share.shape:
            return value
        copies = (Replicate(),) * (self.mesh.ndim - 1)
        return DTensor.from_local(value, self.mesh, (*copies, Shard(0)), run_check=False)
