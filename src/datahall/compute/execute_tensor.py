"""Tensor parallelism by DTensor: the workload says which modules are cut by column and which by row.

Every tensor rank computes on the same samples.  Several copies (data ranks) sum their gradients after the backward
pass, so that nothing of it is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from inspect import signature

import torch
from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from datahall.base.errors import Refused
from datahall.base.workload import Workload
from datahall.compute.execute_local import HoldsModel, trained
from datahall.compute.execute_sharded import spread
from datahall.compute.plan import ComputePlan


class TensorParallel(HoldsModel):
    """Each module that the workload names is cut over the tensor ranks; everything else every rank has whole.

    What a rank holds may be spread over the data ranks by ZeRO.
    """

    def __init__(self, workload: Workload, plan: ComputePlan, bucket_bytes: int, device: torch.device) -> None:
        check_tensor_cuts(workload, plan)
        super().__init__(workload, plan, device)
        names = list(trained([self.module]))
        parallelize_module(self.module, self.grid.along("tensor"), _styles(self.module, workload.tensor_cuts))
        self.state = spread(workload, plan, [self.module], names, self.grid, bucket_bytes)


def how_cut(name: str, cuts: Mapping[str, str]) -> str:
    """How `Workload.tensor_cuts` cuts the module called `name`; empty where it stays whole."""
    return next((how for pattern, how in cuts.items() if _matches(name, pattern)), "")


def _styles(module: nn.Module, cuts: Mapping[str, str]) -> dict[str, ParallelStyle]:
    made: dict[str, ParallelStyle] = {}
    for name, part in module.named_modules():
        how = how_cut(name, cuts)
        if how:
            made[name] = _style(how, len(signature(part.forward).parameters))
    return made


def _matches(name: str, pattern: str) -> bool:
    return name.count(".") == pattern.count(".") and fnmatchcase(name, pattern)


def _style(how: str, inputs: int) -> ParallelStyle:
    whole = Replicate()
    if how == "input":
        first = (whole, *[None] * (inputs - 1))
        return PrepareModuleInput(input_layouts=first, desired_input_layouts=first)
    if how == "gathered":
        return ColwiseParallel(output_layouts=whole)
    if how == "vocabulary":
        return RowwiseParallel(input_layouts=whole)
    return {"column": ColwiseParallel, "row": RowwiseParallel}[how]()


def check_tensor_cuts(workload: Workload, plan: ComputePlan) -> None:
    """Refused unless tensor ranks can run this workload by `plan`."""
    if not workload.tensor_cuts:
        raise Refused(
            f"{workload.name} does not say how tensor parallelism cuts it.",
            where="plan.compute.tensor",
            hint="Give Workload.tensor_cuts, or choose a plan with tensor 1.",
        )
    shape = getattr(workload.model, "shape", None)
    uneven = shape is not None and (shape.kv_heads % plan.tensor or shape.ffn % plan.tensor or shape.tied_embeddings)
    if plan.sequence_parallel or uneven:
        raise Refused(
            "tensor parallelism runs without sequence parallelism, with heads and widths that divide, and untied.",
            where="plan.compute.tensor",
            hint="Set sequence_parallel false, and choose tensor so that it divides kv_heads and ffn.",
        )
