"""Tensor ranks' pieces of a linear layer that has an adapter beside it (`base.workload.Adapted`).

Beside a column cut the first thin product is whole and the second cut; beside a row cut the first is cut and the second
whole.  Nothing more is exchanged in a micro-step: what a rank makes of its piece joins the sums of the layer itself.
Gradients of what is whole are of one piece, and have to be summed over the ranks once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.nn import functional

from datahall.base.workload import Adapted
from datahall.compute.execute_local import local

Rows = Callable[[torch.Tensor], torch.Tensor]  # of the outputs' rows those that this rank uses


def cut_adapted(part: Any, how: str, ranks: DeviceMesh, stream: Placement, own_rows: Rows) -> list[str]:
    """Cut `part`, an Adapted module, by "column" or "row", or leave it whole and use `own_rows` of it ("copied").

    `stream` says what a rank has of what flows into a column cut and out of a row cut.  Returns the names of the
    parameters whose gradients have to be summed.
    """
    if how == "row":
        keep_piece(part.base, "weight", 1, ranks)
        keep_piece(part, "reduce", 1, ranks)
        part.forward = _row_cut(part, ranks, stream)
        return ["expand"]
    if how == "column":
        for owner, name in ((part.base, "weight"), (part.base, "bias"), (part, "expand")):
            keep_piece(owner, name, 0, ranks)
        part.forward = _column_cut(part, ranks, stream, local)
        return ["reduce"]
    part.forward = _column_cut(part, ranks, stream, own_rows)
    return ["reduce", "expand"]


def keep_piece(owner: nn.Module, name: str, dimension: int, ranks: DeviceMesh) -> None:
    """Replace a parameter of `owner`, if it has it, by the rank's own piece of it; all ranks have the same now."""
    whole = getattr(owner, name)
    if whole is not None:
        piece = distribute_tensor(whole.detach(), ranks, [Shard(dimension)], src_data_rank=None)
        setattr(owner, name, nn.Parameter(piece, requires_grad=whole.requires_grad))


def _column_cut(part: Adapted, ranks: DeviceMesh, stream: Placement, rows: Rows) -> Callable[..., torch.Tensor]:
    def forward(given: torch.Tensor) -> torch.Tensor:
        if not isinstance(given, DTensor):  # else it is whole already
            given = DTensor.from_local(given, ranks, (stream,), run_check=False).redistribute(placements=(Replicate(),))
        whole = given.to_local(grad_placements=(Partial(),))
        narrow = functional.linear(whole, part.reduce) * part.scale
        bias = None if part.base.bias is None else rows(part.base.bias)
        return functional.linear(whole, rows(part.base.weight), bias) + functional.linear(narrow, rows(part.expand))

    return forward


def _row_cut(part: Adapted, ranks: DeviceMesh, stream: Placement) -> Callable[..., torch.Tensor]:
    def forward(given: torch.Tensor) -> torch.Tensor:
        narrow = functional.linear(given, local(part.reduce)) * part.scale
        piece = functional.linear(given, local(part.base.weight)) + functional.linear(narrow, part.expand)
        summed = DTensor.from_local(piece, ranks, (Partial(),), run_check=False).redistribute(placements=(stream,))
        return summed.to_local() if part.base.bias is None else summed.to_local() + part.base.bias

    return forward
