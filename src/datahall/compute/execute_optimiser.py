"""The optimiser of a worker's parameters: the workload's own or AdamW, and its state for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from datahall.base.workload import Workload

LEARNING_RATE = 1e-3


def make_optimiser(workload: Workload, module: nn.Module) -> torch.optim.Optimizer:
    """The workload's own optimiser, or AdamW with the fused kernel."""
    return optimiser_of(workload, [parameter for parameter in module.parameters() if parameter.requires_grad])


def optimiser_of(workload: Workload, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The workload's own optimiser of these parameters, or AdamW with the fused kernel."""
    if workload.optimiser is not None:
        return workload.optimiser(parameters)
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters, by name, that a workload's optimiser treats alike (learning rate, weight decay, ...)."""

    names: frozenset[str]
    options: Mapping[str, Any]


def groups_of(workload: Workload, held: Mapping[str, torch.Tensor]) -> list[Group]:
    """The groups that the workload's optimiser makes of parameters in their own shapes."""
    parameters = {name: nn.Parameter(tensor) for name, tensor in held.items()}
    names = {id(parameter): name for name, parameter in parameters.items()}
    found: list[Group] = []
    for group in optimiser_of(workload, list(parameters.values())).param_groups:
        options = {key: value for key, value in group.items() if key != "params"}
        found.append(Group(frozenset(names[id(one)] for one in group["params"]), options))
    return found


def optimiser_in_groups(
    workload: Workload, groups: Sequence[Group], parameters: Sequence[list[nn.Parameter]]
) -> torch.optim.Optimizer:
    """The workload's optimiser of other `parameters` in the same groups, by whose shapes it could not make them."""
    if len(groups) == 1:
        return optimiser_of(workload, parameters[0])
    example = optimiser_of(workload, [one for group in parameters for one in group])
    made = [{**group.options, "params": own} for group, own in zip(groups, parameters, strict=True) if own]
    example.param_groups.clear()
    for group in made:
        example.add_param_group(group)
    return example


def allocate_state(optimiser: torch.optim.Optimizer) -> None:
    """Let the optimiser make its state by a step that moves nothing: no gradient, no learning rate."""
    rates = [group["lr"] for group in optimiser.param_groups]
    for group in optimiser.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], torch.Tensor) else 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimiser.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()


def optimiser_tensors(optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> dict[str, torch.Tensor]:
    """The optimiser's state as tensors, for a checkpoint, named by the place of each parameter among all trained ones.

    Not by its place in the optimiser, which may have it in another group.
    """
    return {
        f"optimiser.{position}.{name}": torch.as_tensor(value)
        for position, parameter in enumerate(parameters)
        for name, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Take over what `optimiser_tensors` gave."""
    for position, parameter in enumerate(parameters):
        prefix = f"optimiser.{position}."
        state = {key.removeprefix(prefix): value.clone() for key, value in tensors.items() if key.startswith(prefix)}
        if state:
            optimiser.state[parameter] = state
