"""Tensor parallelism by DTensor: the workload says which modules are cut by column and which by row.

Every tensor rank computes on the same samples.  Several copies (data ranks) sum their gradients after the backward
pass, so that nothing of it is hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional

from datahall.base.errors import Refused
from datahall.base.workload import Adapted, Workload
from datahall.compute.execute_adapted import cut_adapted, keep_piece
from datahall.compute.execute_local import HoldsModel, local, tie, tied_names
from datahall.compute.execute_sharded import spread
from datahall.compute.layout import splits_evenly
from datahall.compute.plan import ComputePlan

_STYLED = ("column", "row", "vocabulary", "gathered", "input")  # PyTorch's own


class TensorParallel(HoldsModel):
    """Each module that the workload names is cut over the tensor ranks; everything else every rank has whole.

    What a rank holds may be spread over the data ranks by ZeRO.
    """

    def __init__(self, workload: Workload, plan: ComputePlan, bucket_bytes: int, device: torch.device) -> None:
        check_tensor_cuts(workload, plan)
        super().__init__(workload, plan, device)
        self.shared = cut_modules(self.module, workload, plan, self.grid.along("tensor"))
        self.state = spread(workload, plan, [self.module], list(self.shapes), self.grid, self.experts, bucket_bytes)


def cut_modules(module: nn.Module, workload: Workload, plan: ComputePlan, ranks: DeviceMesh | None) -> list[str]:
    """Cut the modules of a model, or of a part of it, that the workload names over the tensor ranks, if there are any.

    Returns the names of the parameters whose gradients on the ranks are then parts of a sum.
    """
    if ranks is None:
        return []
    how = _how_all(module, workload, plan)
    cut = [(name, part) for name, part in module.named_modules() if how[name]]
    plain = [(name, part) for name, part in cut if not isinstance(part, Adapted)]
    adapted = [(name, part) for name, part in cut if isinstance(part, Adapted)]

    def stream(name: str) -> Placement:
        whole = how[name] in ("column", "gathered") and within(name, how, "input")
        return Shard(1) if plan.sequence_parallel and not whole else Replicate()

    styles = {
        name: _style(how[name], len(signature(part.forward).parameters), stream(name))
        for name, part in plain
        if how[name] in _STYLED and not within(name, how, "part")
    }
    ties = tied_names(module)
    parallelize_module(module, ranks, styles)
    tie(module, ties)
    _use_pieces(plain, how, workload.tensor_cuts, ranks, stream)
    shared = {"copied", "whole", "apart", *(("sequence",) if plan.sequence_parallel else ())}
    parts = [(name, part) for name, part in plain if how[name] in shared]
    summed = [f"{name}.{own}" for name, part in parts for own, one in part.named_parameters() if one.requires_grad]
    for name, part in adapted:
        rows = own_rows(ranks, pieces(name, workload.tensor_cuts) if how[name] == "copied" else ranks.size())
        summed += [f"{name}.{own}" for own in cut_adapted(part, how[name], ranks, stream(name), rows)]
    return summed


def _how_all(module: nn.Module, workload: Workload, plan: ComputePlan) -> dict[str, str]:
    """How each module is cut; mixtures whose experts are shared out are "apart": each rank has tokens of its own."""
    apart = workload.mixtures if plan.expert > 1 else ()
    how = {name: how_cut(name, workload.tensor_cuts, plan.tensor) for name, _ in module.named_modules()}
    inside = {name: "" for name in how if any(name.startswith(f"{mixture}.") for mixture in apart)}
    return how | inside | {name: "apart" for name in apart if name in how}


def how_cut(name: str, cuts: Mapping[str, str], ranks: int = 1) -> str:
    """How `Workload.tensor_cuts` cuts the module called `name` over so many ranks; empty where it stays whole.

    "copied": there are fewer pieces than ranks, so that each rank has all and uses one.
    """
    how = next((how for pattern, how in cuts.items() if _matches(name, pattern)), "")
    kind, several, _ = how.partition(":")
    return "copied" if several and pieces(name, cuts) < ranks else kind


def pieces(name: str, cuts: Mapping[str, str]) -> int:
    """Of the module called `name`, the pieces that stay whole where `how_cut` says "copied"."""
    return next(int(how.partition(":")[2]) for pattern, how in cuts.items() if _matches(name, pattern))


def _use_pieces(
    modules: Sequence[tuple[str, nn.Module]],
    how: Mapping[str, str],
    cuts: Mapping[str, str],
    ranks: DeviceMesh,
    stream: Callable[[str], Placement],
) -> None:
    """Have those of `modules` that PyTorch has no style for work with the rank's own piece of them."""
    for name, part in modules:
        if how[name] == "part":
            _sum_parts(part, ranks, stream(name))
        elif how[name] == "apart":
            _share_tokens(part, ranks, stream(name))
        elif how[name] == "copied":
            _use_one_piece(part, ranks, pieces(name, cuts))
        elif how[name] in ("column", "row") and within(name, how, "part"):
            _use_own_piece(part, ranks, how[name])


def _use_one_piece(part: Any, ranks: DeviceMesh, count: int) -> None:
    """Have a linear module give the rank's own of `count` pieces of its outputs, of an input that all ranks have."""
    rows = own_rows(ranks, count)

    def forward(given: DTensor) -> torch.Tensor:
        whole = given.to_local(grad_placements=(Partial(),))
        return functional.linear(whole, rows(part.weight), None if part.bias is None else rows(part.bias))

    part.forward = forward


def own_rows(ranks: DeviceMesh, count: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Gives of a tensor's rows the rank's own of `count` pieces."""
    own = ranks.get_local_rank() * count // ranks.size()
    return lambda whole: whole[own * whole.shape[0] // count : (own + 1) * whole.shape[0] // count]


def _use_own_piece(part: Any, ranks: DeviceMesh, how: str) -> None:
    """Have a linear module hold the rank's own outputs ("column") or inputs ("row"), and exchange nothing."""
    if how == "row" and part.bias is not None:
        raise Refused(
            "a row-cut module in a part has no bias.",
            where="Workload.tensor_cuts",
            hint='Cut the module around it as "input".',
        )
    keep_piece(part, "weight", 1 if how == "row" else 0, ranks)
    keep_piece(part, "bias", 0, ranks)

    def forward(given: torch.Tensor) -> torch.Tensor:
        return functional.linear(given, local(part.weight), None if part.bias is None else local(part.bias))

    part.forward = forward


def _sum_parts(module: nn.Module, ranks: DeviceMesh, stream: Placement) -> None:
    """Have a module take its input whole, and add up what the ranks make of it; `stream` says what a rank has of both.

    Everything inside works on plain tensors.
    """
    forward = module.forward

    def exchanged(given: torch.Tensor, *rest: Any) -> torch.Tensor:
        whole = DTensor.from_local(given, ranks, (stream,), run_check=False).redistribute(placements=(Replicate(),))
        part = forward(whole.to_local(grad_placements=(Partial(),)), *rest)
        summed = DTensor.from_local(part, ranks, (Partial(),), run_check=False).redistribute(placements=(stream,))
        return summed.to_local()

    module.forward = exchanged


def _share_tokens(module: nn.Module, ranks: DeviceMesh, stream: Placement) -> None:
    """Have a module work on the rank's own tokens; `stream` says what a rank has of what goes in and out."""
    forward, own = module.forward, Shard(1)

    def shared(given: torch.Tensor) -> torch.Tensor:
        tokens = DTensor.from_local(given, ranks, (stream,), run_check=False).redistribute(placements=(own,))
        found = DTensor.from_local(forward(tokens.to_local()), ranks, (own,), run_check=False)
        return found.redistribute(placements=(stream,)).to_local()

    module.forward = shared


def within(name: str, how: Mapping[str, str], kind: str) -> bool:
    """Whether a module around the one called `name` is cut as `kind`; `how` all are cut."""
    while name:
        name = name.rpartition(".")[0]
        if how.get(name) == kind:
            return True
    return False


def _matches(name: str, pattern: str) -> bool:
    return name.count(".") == pattern.count(".") and fnmatchcase(name, pattern)


def _style(how: str, inputs: int, stream: Placement) -> ParallelStyle:
    """PyTorch's style; `stream` says what a rank has of what flows between cut modules."""
    whole = Replicate()
    if how == "input":
        rest = [None] * (inputs - 1)
        return PrepareModuleInput(input_layouts=(stream, *rest), desired_input_layouts=(whole, *rest))
    if how == "gathered":
        return ColwiseParallel(input_layouts=stream, output_layouts=whole)
    if how == "vocabulary":
        return RowwiseParallel(input_layouts=whole, output_layouts=stream)
    if how == "row":
        return RowwiseParallel(output_layouts=stream)
    return ColwiseParallel(input_layouts=stream)


def check_tensor_cuts(workload: Workload, plan: ComputePlan) -> None:
    """Refused unless tensor ranks can run this workload by `plan`."""
    if not workload.tensor_cuts:
        raise Refused(
            f"{workload.name} does not say how tensor parallelism cuts it.",
            where="plan.compute.tensor",
            hint="Give Workload.tensor_cuts, or choose a plan with tensor 1.",
        )
    shape = getattr(workload.model, "shape", None)
    if shape is not None and not splits_evenly(shape, plan.tensor):
        raise Refused(
            "tensor parallelism runs with heads and widths that divide.",
            where="plan.compute.tensor",
            hint="Choose tensor so that it divides heads and ffn, and kv_heads or the other way round.",
        )
    whole = plan.sequence_parallel and "sequence" not in workload.tensor_cuts.values()
    if whole or ((plan.sequence_parallel or plan.expert > 1) and _uneven(workload, plan)):
        raise Refused(
            f"tensor ranks cannot share the sequence of {workload.name}.",
            where="plan.compute.sequence_parallel",
            hint='Give a length that divides and "sequence" in Workload.tensor_cuts, or neither share it nor experts.',
        )


def _uneven(workload: Workload, plan: ComputePlan) -> bool:
    return workload.tokens_per_sample // plan.context % plan.tensor != 0
