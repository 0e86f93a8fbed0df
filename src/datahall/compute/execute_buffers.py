"""Buffers of a model (running statistics and the like) in a split: what checkpoints and metrics see of them.

They are no parameters: nothing is summed and nothing is spread.  Where workers hold the same part of a model, the first
one's buffers are the model's, as with DDP; plain data parallelism hands them round in every step, as DDP does, other
splits when a checkpoint or a metric wants them.  Buffers that are not persistent follow from `build` and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from datahall.compute.execute_sums import in_one_message


def buffers_of(modules: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
    """The persistent buffers of some modules by name."""
    found: dict[str, torch.Tensor] = {}
    for module in modules:
        kept = module.state_dict()
        found |= {name: buffer for name, buffer in module.named_buffers() if name in kept}
    return found


def agreed_buffers(modules: Sequence[nn.Module], group: dist.ProcessGroup | None) -> dict[str, torch.Tensor]:
    """The same, with the values of the group's first worker on all of it; None: this worker is alone."""
    found = buffers_of(modules)
    if group is not None:
        with torch.no_grad():
            for alike in by_type(found.values()):
                in_one_message(alike, lambda flat: dist.broadcast(flat, group=group, group_src=0))
    return found


def by_type(buffers: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """What a worker holds of some buffers, those of one type together: each is a message."""
    found: dict[torch.dtype, list[torch.Tensor]] = {}
    for buffer in buffers:
        found.setdefault(buffer.dtype, []).append(_own(buffer))
    return list(found.values())


def restore_buffers(modules: Sequence[nn.Module], values: Mapping[str, torch.Tensor]) -> None:
    """Take over `values`, by the same names."""
    with torch.no_grad():
        for name, buffer in buffers_of(modules).items():
            _own(buffer).copy_(_own(values[name]))


def _own(buffer: torch.Tensor) -> torch.Tensor:
    return buffer.to_local() if isinstance(buffer, DTensor) else buffer
