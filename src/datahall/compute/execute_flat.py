"""ZeRO stage 1: flat buffers of what a worker trains, of which it updates a share.

One buffer for everything that the same workers hold: the worker's own pieces, whatever tensor ranks or stages cut of
the model, and apart from them its experts.  Gradients are summed once a step by a reduce-scatter, new parameters are
gathered after the update; nothing is hidden behind the backward pass.  Where groups of workers share a copy, shares are
also summed over the groups.  A checkpoint knows nothing of buffers: the optimiser's state has its parameter's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from datahall.base.workload import Workload
from datahall.compute.execute_flat_pieces import FlatPiece, Place
from datahall.compute.execute_local import like, local, tie, tied_names, trained
from datahall.compute.execute_optimiser import allocate_state, groups_of, optimiser_in_groups
from datahall.compute.handed import FLAT_MULTIPLE


@dataclass(frozen=True, slots=True)
class Holding:
    """Some of a worker's parameters, by name, and the workers that hold the same ones.

    `mesh` is of one dimension, or of groups by their members; None: there are no others.
    """

    names: Sequence[str]
    mesh: DeviceMesh | None


class FlatState:
    """The trained parameters of some modules as views of a buffer for each holding; the optimiser of shares of them.

    `names` are those of the whole model, in order: their positions name the optimiser's state in a checkpoint.  State
    of parameters in `elsewhere` is written by another worker, which has the same.
    """

    def __init__(
        self,
        workload: Workload,
        modules: Sequence[nn.Module],
        holdings: Sequence[Holding],
        names: Sequence[str],
        elsewhere: Collection[str] = (),
    ) -> None:
        self.held = trained(modules)
        self.positions = {name: position for position, name in enumerate(names)}
        owners = {name: module for module in modules for name, _ in module.named_parameters()}
        ties = [(module, tied_names(module)) for module in modules]
        groups = groups_of(workload, {name: local(parameter.detach()) for name, parameter in self.held.items()})
        self.buffers = [
            _Buffer(holding, self.held, owners, [group.names for group in groups], elsewhere)
            for holding in holdings
            if holding.names
        ]
        self.taught: set[str] = set()  # of which a gradient was added up in this step, which zeros do not show
        for name, parameter in self.held.items():  # a zero-bubble schedule adds up by itself, past later hooks
            parameter.register_hook(lambda gradient, name=name: self.taught.add(name))
        for module, names_of in ties:
            tie(module, names_of)
        shares = [[one for buffer in self.buffers for one in buffer.shares[group]] for group in range(len(groups))]
        self.optimiser = optimiser_in_groups(workload, groups, shares)

    def untaught(self) -> Iterable[str]:
        """Names of what this worker trains and that got no gradient in this step."""
        return (name for name in self.held if name not in self.taught)

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
        self.taught.clear()
        for buffer in self.buffers:
            buffer.sums.zero_()

    def tensors(self, *, complete: bool) -> dict[str, torch.Tensor]:
        """Parameters, and of the optimiser's state what this worker has of each."""
        if complete:
            self._allocate()
        found = {f"model.{name}": parameter.detach() for name, parameter in self.held.items()}
        for key, share, kind, part in self._state():
            value = self.optimiser.state[share][kind]
            if _is_share(value, share):
                found[key] = FlatPiece(value[part.within], part.place)
            else:
                found[key] = torch.as_tensor(value).clone()
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave.  A share has one count of steps: the highest of its parameters'."""
        self._allocate()
        with torch.no_grad():
            for name, parameter in self.held.items():
                local(parameter).copy_(local(tensors[f"model.{name}"]))
        numbers: dict[tuple[nn.Parameter, str], torch.Tensor] = {}
        for key, share, kind, part in self._state():
            value, given = self.optimiser.state[share][kind], tensors[key]
            if _is_share(value, share):
                value[part.within].copy_(given.memory if isinstance(given, FlatPiece) else given)
            else:
                numbers[share, kind] = torch.maximum(numbers.get((share, kind), given), given)
        for (share, kind), number in numbers.items():
            self.optimiser.state[share][kind] = number.clone()

    def _allocate(self) -> None:
        if not self.optimiser.state:
            allocate_state(self.optimiser)
            for buffer in self.buffers:
                buffer.use_sums()

    def _state(self) -> Iterator[tuple[str, nn.Parameter, str, _Part]]:
        """What the optimiser holds of each parameter: its name in a checkpoint, the share, the kind, where it is."""
        for buffer in self.buffers:
            for share, parts in buffer.parts.items():
                for part in parts:
                    for kind, value in self.optimiser.state.get(share, {}).items():
                        if value is not None:
                            yield f"optimiser.{self.positions[part.name]}.{kind}", share, kind, part


@dataclass(frozen=True, slots=True)
class _Part:
    """What a share has of one parameter: which elements of the share they are, and where they lie in the parameter."""

    name: str
    within: slice
    place: Place


class _Buffer:
    """The parameters of one holding as views of one buffer, their gradients as views of another.

    Parameters lie in the order of the optimiser's `groups`; `shares` are the pieces of each that this worker updates.
    """

    def __init__(
        self,
        holding: Holding,
        held: dict[str, nn.Parameter],
        owners: Mapping[str, nn.Module],
        groups: Sequence[Collection[str]],
        elsewhere: Collection[str],
    ) -> None:
        self.mesh = holding.mesh
        self.members = 1 if self.mesh is None else self.mesh.size(-1)
        grouped = [[name for name in holding.names if name in group] for group in groups]
        pieces = {name: local(held[name].detach()) for group in grouped for name in group}
        count = sum(piece.numel() for piece in pieces.values())
        multiple = FLAT_MULTIPLE if FLAT_MULTIPLE % self.members == 0 else FLAT_MULTIPLE * self.members
        padded = -(-count // multiple) * multiple
        self.weights = torch.zeros(padded, device=next(iter(pieces.values())).device)
        self.sums = torch.zeros_like(self.weights)
        spans, at = dict[str, slice](), 0
        for name, piece in pieces.items():
            spans[name] = slice(at, at + piece.numel())
            self._move_in(name, spans[name], held, owners[name])
            at += piece.numel()
        rank = 0 if self.mesh is None else self.mesh.get_local_rank(-1)
        size = padded // self.members
        self.own = slice(rank * size, (rank + 1) * size)
        self._take_shares(grouped, spans, {name: _place(held[name], name not in elsewhere) for name in pieces})
        self.use_sums()

    def use_sums(self) -> None:
        """Let the gradients of the shares be their parts of the sums."""
        for share, span in self.spans.items():
            share.grad = self.sums[span]

    def exchange(self) -> None:
        """Sum the gradients of this worker's share over all workers that hold it."""
        own = self.sums[self.own]
        if self.mesh is not None and self.members > 1:
            dist.reduce_scatter_tensor(own, self.sums, group=self.mesh.get_group(-1))
        if self.mesh is not None and self.mesh.ndim > 1:
            dist.all_reduce(own, group=self.mesh.get_group(0))

    def gather(self) -> None:
        """Take over the other shares of the parameters."""
        if self.mesh is not None and self.members > 1:
            dist.all_gather_into_tensor(self.weights, self.weights[self.own], group=self.mesh.get_group(-1))

    def _take_shares(
        self, grouped: Sequence[Sequence[str]], spans: Mapping[str, slice], places: Mapping[str, Place]
    ) -> None:
        """This worker's shares, one of each group that its part of the buffer has some of; padding is the last's."""
        self.shares: list[list[nn.Parameter]] = [[] for _ in grouped]
        self.spans: dict[nn.Parameter, slice] = {}
        self.parts: dict[nn.Parameter, list[_Part]] = {}
        filled = [number for number, names in enumerate(grouped) if names]
        for number in filled:
            names = grouped[number]
            stop = len(self.weights) if number == filled[-1] else spans[names[-1]].stop
            run = _common(slice(spans[names[0]].start, stop), self.own)
            if run.start == run.stop:
                continue
            share = nn.Parameter(self.weights[run])
            self.shares[number].append(share)
            self.spans[share] = run
            held = ((name, _common(spans[name], run)) for name in names)
            self.parts[share] = [
                _Part(
                    name,
                    slice(span.start - run.start, span.stop - run.start),
                    places[name].further(span.start - spans[name].start),
                )
                for name, span in held
                if span.stop > span.start
            ]

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


def _place(parameter: nn.Parameter, written: bool) -> Place:
    """Where a worker's piece of a parameter lies in it."""
    whole = tuple(parameter.shape)
    if not isinstance(parameter, DTensor):
        return Place(whole, (0,) * len(whole), whole, written)
    sizes, offsets = compute_local_shape_and_global_offset(whole, parameter.device_mesh, parameter.placements)
    return Place(whole, tuple(offsets), tuple(sizes), written)


def _common(one: slice, other: slice) -> slice:
    """What two spans have in common; of no length where that is nothing."""
    start = max(one.start, other.start)
    return slice(start, max(start, min(one.stop, other.stop)))


def _is_share(value: Any, share: nn.Parameter) -> bool:
    """Whether the optimiser's `value` has an entry for each of the share's; else it is a number for all of them."""
    return isinstance(value, torch.Tensor) and value.shape == share.shape
