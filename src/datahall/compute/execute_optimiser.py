"""The optimiser of a worker's parameters: the workload's own or AdamW, and its state for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

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


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as tensors by name, for a checkpoint."""
    return {
        f"optimiser.{index}.{name}": torch.as_tensor(value)
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take over what `optimiser_tensors` gave."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
