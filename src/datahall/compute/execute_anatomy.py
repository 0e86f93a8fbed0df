"""Reads off a built workload what it is made of, by looking at its modules and by running one micro-batch through it.

Seconds are `real.rehearsal`'s.  The model keeps its weights; gradients are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from datahall.base.errors import Refused
from datahall.base.workload import Adapted, Workload
from datahall.compute import execute
from datahall.compute.anatomy import Anatomy, Frozen
from datahall.compute.execute_buffers import buffers_of, by_type
from datahall.compute.execute_context import check_sequence
from datahall.compute.execute_local import trained
from datahall.compute.execute_pipeline import check_stages
from datahall.compute.execute_tensor import check_tensor_cuts, how_cut, pieces, within
from datahall.compute.handed_tensor import TensorCuts
from datahall.compute.inventory import Inventory, Shape
from datahall.compute.layout import stage_layers
from datahall.compute.plan import ComputePlan

_TOLD = {  # what tensor ranks exchange of a module that is cut so
    "input": ("entered",),
    "part": ("entered", "forward"),
    "column": ("entered",),
    "gathered": ("entered", "gathered"),
    "row": ("forward",),
    "vocabulary": ("tables",),
}
_DIVIDED = ("column", "row", "gathered", "vocabulary")  # cuts that divide a module's parameters
CountFlops = Callable[[Callable[[], Any]], tuple[int, int]]  # of some work: matrix products, attention


def read_anatomy(workload: Workload, plan: ComputePlan, batch: Any, samples: int, count_flops: CountFlops) -> Anatomy:
    """The anatomy of `workload` cut by `plan`, with a `batch` of so many `samples`.

    `count_flops` counts those of some work.  Refused for a split that the workload has no cuts for.
    """
    model: nn.Module = workload.model
    inventory, outside = _inventory(model, workload.cut_points)
    buffers = tuple(_bytes(alike) for alike in by_type(buffers_of([model]).values()))
    found = Anatomy(inventory, frozen=Frozen(_frozen(workload, plan)), buffers=buffers)
    _check_frozen(workload, plan, inventory)
    if plan.context > 1:
        check_sequence(workload, torch.device("cpu"))
        raise Refused(
            "context ranks are not forecast for a model that a case brings with it.",
            where="plan.compute.context",
            hint="Choose a plan with context 1, or run the plan without a forecast by datahall.real.training.run.",
        )
    if plan.tensor > 1:
        check_tensor_cuts(workload, plan)
        on_rank, _ = _inventory(model, workload.cut_points, workload.tensor_cuts, plan.tensor)
        found = replace(found, on_rank=on_rank)
    if plan.pipeline > 1:
        check_stages(workload, plan)
        return _cut_into_stages(found, workload, plan, batch, samples, outside, count_flops)
    seen = _CutsSeen(model, workload, samples, plan.tensor)
    with seen.watching():
        matmul, attention = count_flops(lambda: workload.loss(model, batch).backward())
    if plan.devices > 1 or plan.zero_stage:
        execute.check_taught(name for name, one in trained([model]).items() if one.grad is None)
    model.zero_grad(set_to_none=True)
    if plan.tensor > 1:
        found = replace(found, parts=(seen.cuts(),))
    return replace(found, matmul_flops=seen.own_flops(matmul), attention_flops=attention // plan.tensor)


def saved_bytes(model: nn.Module, forward: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Bytes that one forward pass keeps for the backward pass beside the parameters, and the largest of them."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(seen.values()), max(seen.values(), default=0)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _inventory(
    model: nn.Module,
    cut_points: tuple[str, ...],
    cuts: Mapping[str, str] | None = None,
    ranks: int = 1,
    *,
    trained: bool = True,
) -> tuple[Inventory, set[str]]:
    """Shapes of what is trained (or frozen) by cut point, on one of `ranks` that `cuts` share it; names of the rest."""
    found = {
        name: _piece(name, tuple(one.shape), cuts or {}, ranks)
        for name, one in model.named_parameters()
        if one.requires_grad == trained
    }
    blocks: list[tuple[tuple[int, ...], ...]] = []
    for point in cut_points:
        inside = [name for name in found if name.startswith(point + ".")]
        blocks.append(tuple(found[name] for name in inside))
    rest = {name for name in found if not any(name.startswith(point + ".") for point in cut_points)}
    first = next((at for at, name in enumerate(found) if name not in rest), 0)  # all before it are outside
    return Inventory(tuple(blocks), tuple(found[name] for name in found if name in rest), before=first), rest


def _frozen(workload: Workload, plan: ComputePlan) -> Inventory:
    return _inventory(workload.model, workload.cut_points, workload.tensor_cuts, plan.tensor, trained=False)[0]


def _check_frozen(workload: Workload, plan: ComputePlan, trained: Inventory) -> None:
    """Refused where it is not known what a run with frozen parameters would count."""
    if plan.tensor > 1 and any(isinstance(part, Adapted) for part in workload.model.modules()):
        raise Refused(
            "adapters on tensor ranks are not forecast for a model that a case brings with it.",
            where="plan.compute.tensor",
            hint="Choose a plan with tensor 1, or run the plan without a forecast by datahall.real.training.run.",
        )
    taught = bool(trained.root[: trained.before]) or (bool(trained.blocks) and bool(trained.blocks[0]))
    if plan.zero_stage == 3 and plan.copies > 1 and not taught:
        raise Refused(
            "ZeRO stage 3 is not forecast for a model that a case brings with it and whose first block is frozen.",
            where="plan.compute.zero_stage",
            hint="Choose zero_stage 2, which gathers what is frozen once, or run the plan without a forecast.",
        )


def _piece(name: str, shape: Shape, cuts: Mapping[str, str], ranks: int) -> Shape:
    """The shape of a tensor rank's piece of a parameter."""
    how = how_cut(name.rpartition(".")[0], cuts, ranks)
    if how not in _DIVIDED or (how == "row" and len(shape) == 1):
        return shape
    dimension = 1 if how == "row" else 0
    return (*shape[:dimension], shape[dimension] // ranks, *shape[dimension + 1 :])


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage as it was seen: its parameters outside of all cut points, exchanges, FLOPs, and what the next gets."""

    held: dict[str, Shape]
    frozen: tuple[Shape, ...]
    cuts: TensorCuts
    matmul_flops: int
    attention_flops: int
    handed: torch.Tensor


def _cut_into_stages(
    found: Anatomy,
    workload: Workload,
    plan: ComputePlan,
    batch: Any,
    samples: int,
    outside: set[str],
    count_flops: CountFlops,
) -> Anatomy:
    """One micro-batch through all stages, as the stages do it; FLOPs are those of the last worker's."""
    count = plan.pipeline * plan.virtual_stages
    inputs, targets = workload.split(batch)  # pyright: ignore[reportOptionalCall]
    stages: list[_Stage] = []
    for index in range(count):
        own = stage_layers(len(workload.cut_points), count, index)
        part: nn.Module = workload.cut(workload.model, own.start, own.stop)  # pyright: ignore[reportOptionalCall]
        wanted = targets if index == count - 1 else None
        stages.append(_through(part, inputs, wanted, workload, plan, samples, outside, count_flops))
        inputs = stages[-1].handed
    workload.model.zero_grad(set_to_none=True)
    first, last = stages[0], stages[-1]
    of_last_worker = stages[plan.pipeline - 1 :: plan.pipeline]
    return replace(
        found,
        boundary=first.handed.numel() // samples,
        first_outside=tuple(first.held.values()),
        last_outside=tuple(last.held.values()),
        common=tuple(shape for name, shape in first.held.items() if name in last.held),
        parts=tuple(stage.cuts for stage in stages),
        frozen=Frozen(found.frozen.inventory, first.frozen, last.frozen),
        taught_from=next((index for index, stage in enumerate(stages) if stage.handed.requires_grad), count),
        matmul_flops=sum(stage.matmul_flops for stage in of_last_worker),
        attention_flops=sum(stage.attention_flops for stage in of_last_worker) // plan.tensor,
    )


def _through(
    part: nn.Module,
    inputs: torch.Tensor,
    targets: Any,
    workload: Workload,
    plan: ComputePlan,
    samples: int,
    outside: set[str],
    count_flops: CountFlops,
) -> _Stage:
    """The stage `part` with `inputs` passed through it, forward and backward; only the last one knows `targets`."""
    loose = _outside(part, workload, plan)
    seen = _CutsSeen(part, workload, samples, plan.tensor)
    with seen.watching():
        outputs, (matmul, attention) = _passed(part, inputs, workload, targets, count_flops)
    return _Stage(
        {name: shape for name, shape in loose.items() if name in outside},
        tuple(shape for name, shape in loose.items() if name not in outside),
        seen.cuts(),
        seen.own_flops(matmul),
        attention,
        outputs.detach().requires_grad_(outputs.requires_grad),
    )


def _outside(part: nn.Module, workload: Workload, plan: ComputePlan) -> dict[str, Shape]:
    """A tensor rank's pieces of what is outside of all cut points in a stage, by name."""
    return {
        name: _piece(name, tuple(one.shape), workload.tensor_cuts, plan.tensor)
        for name, one in part.named_parameters()
        if not any(name.startswith(point + ".") for point in workload.cut_points)
    }


def _passed(
    part: nn.Module, inputs: torch.Tensor, workload: Workload, targets: Any, count_flops: CountFlops
) -> tuple[torch.Tensor, tuple[int, int]]:
    """What a stage gives for `inputs`, and its FLOPs forward and backward; only the last stage knows `targets`."""
    kept: list[torch.Tensor] = []

    def work() -> None:
        kept.append(part(inputs))
        value = kept[0].sum() if targets is None else workload.criterion(kept[0], targets)  # pyright: ignore
        if value.requires_grad:
            value.backward()

    counted = count_flops(work)
    return kept[0], counted


class _CutsSeen:
    """What DTensor sums and gathers in a model or a part of it, seen from what goes in and out of its cut modules."""

    def __init__(self, part: nn.Module, workload: Workload, samples: int, ranks: int) -> None:
        self.how = {name: how_cut(name, workload.tensor_cuts, ranks) for name, _ in part.named_modules()}
        self.modules = {name: module for name, module in part.named_modules() if self.how[name]}
        self.cut, self.points, self.samples, self.ranks = workload.tensor_cuts, workload.cut_points, samples, ranks
        self.undivided: list[tuple[int, int]] = []  # FLOPs of products that ranks share in this many pieces, or not (1)
        kinds = ("forward", "tables", "entered", "backward", "taught", "gathered")
        self.told: dict[str, list[tuple[str, int]]] = {kind: [] for kind in kinds}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what passes by meanwhile."""
        handles = [module.register_forward_hook(self._note(name)) for name, module in self.modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def own_flops(self, matmul: int) -> int:
        """Of the products' FLOPs of a whole model, forward and backward, those of one rank."""
        divided = matmul - sum(flops for flops, _ in self.undivided)
        return divided // self.ranks + sum(flops // shared for flops, shared in self.undivided)

    def cuts(self) -> TensorCuts:
        """What was seen.  In a block that is recomputed the last row-cut product is not done again."""
        products = {name: one for name, one in self.modules.items() if self.how[name] in _DIVIDED}
        parameters = sum(one.numel() for module in products.values() for one in module.parameters(recurse=False))
        whole = sum(_bias(module) for name, module in products.items() if self.how[name] == "row")
        rows = [self._inside(point, "forward") for point in self.points]
        return TensorCuts(
            **{kind: tuple(size for _, size in seen) for kind, seen in self.told.items()},
            forward_again=tuple(size for sizes in rows for size in sizes[:-1]),
            entered_again=tuple(size for point in self.points for size in self._inside(point, "entered")),
            cut_parameters=parameters - whole,
            shared=self._shapes("sequence"),
            routed=(),
            copied=self._shapes("copied", "whole"),
            modules=len(products),
        )

    def _shapes(self, *how: str) -> tuple[Shape, ...]:
        modules = [module for name, module in self.modules.items() if self.how[name] in how]
        return tuple(tuple(one.shape) for module in modules for one in module.parameters() if one.requires_grad)

    def _inside(self, point: str, kind: str) -> list[int]:
        return [size for name, size in self.told[kind] if name.startswith(point + ".")]

    def _note(self, name: str) -> Callable[..., None]:
        kind, told = self.how[name], _TOLD.get(self.how[name], ())
        if within(name, self.how, "part"):
            told = ()
        elif within(name, self.how, "input"):
            told = tuple(one for one in told if one != "entered")

        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            for one in told:
                self._tell(one, name, given[0] if one == "entered" else output)
            if "tables" in told and output.requires_grad:
                self._tell("taught", name, output)
            if "entered" in told and given[0].requires_grad:
                self._tell("backward", name, given[0])
            if kind in ("copied", "whole") and isinstance(module, nn.Linear):
                shared = pieces(name, self.cut) if kind == "copied" else 1
                passes = 1 + given[0].requires_grad + module.weight.requires_grad
                self.undivided.append((2 * passes * output.numel() * module.in_features, shared))

        return hook

    def _tell(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        self.told[kind].append((name, tensor.numel() // self.samples))


def _bias(module: nn.Module) -> int:
    bias = getattr(module, "bias", None)
    return bias.numel() if isinstance(bias, torch.Tensor) else 0
