"""Reads off a built workload what it is made of, by looking at its modules and by running one micro-batch through it.

Seconds are `real.rehearsal`'s.  The model keeps its weights; gradients are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from datahall.base.workload import Workload
from datahall.compute.anatomy import Anatomy, TensorCuts
from datahall.compute.execute_pipeline import check_stages
from datahall.compute.execute_tensor import check_tensor_cuts, how_cut
from datahall.compute.handed import Inventory, Shape
from datahall.compute.layout import stage_layers
from datahall.compute.plan import ComputePlan

CountFlops = Callable[[Callable[[], Any]], tuple[int, int]]  # of some work: matrix products, attention


def read_anatomy(workload: Workload, plan: ComputePlan, batch: Any, samples: int, count_flops: CountFlops) -> Anatomy:
    """The anatomy of `workload` cut by `plan`, with a `batch` of so many `samples`.

    `count_flops` counts those of some work.  Refused for a split that the workload has no cuts for.
    """
    model: nn.Module = workload.model
    inventory, outside = _inventory(model, workload.cut_points)
    found = Anatomy(inventory)
    if plan.pipeline > 1:
        check_stages(workload, plan)
        return _cut_into_stages(found, workload, plan, batch, samples, outside, count_flops)
    if plan.tensor > 1:
        check_tensor_cuts(workload, plan)
        on_rank, _ = _inventory(model, workload.cut_points, workload.tensor_cuts, plan.tensor)
        found = _with(found, cuts=_tensor_cuts(workload, batch, samples), on_rank=on_rank)
    matmul, attention = count_flops(lambda: workload.loss(model, batch).backward())
    model.zero_grad(set_to_none=True)
    return _with(found, matmul_flops=matmul // plan.tensor, attention_flops=attention // plan.tensor)


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


def _with(found: Anatomy, **changes: Any) -> Anatomy:
    return Anatomy(**{name: changes.get(name, getattr(found, name)) for name in Anatomy.__dataclass_fields__})


def _inventory(
    model: nn.Module, cut_points: tuple[str, ...], cuts: Mapping[str, str] | None = None, ranks: int = 1
) -> tuple[Inventory, set[str]]:
    """Shapes of what is trained by cut point, on one of `ranks` that `cuts` share it; the names of what is in none."""
    trained = {
        name: _piece(name, tuple(one.shape), cuts or {}, ranks)
        for name, one in model.named_parameters()
        if one.requires_grad
    }
    blocks: list[tuple[tuple[int, ...], ...]] = []
    for point in cut_points:
        inside = [name for name in trained if name.startswith(point + ".")]
        blocks.append(tuple(trained[name] for name in inside))
    rest = {name for name in trained if not any(name.startswith(point + ".") for point in cut_points)}
    first = next((at for at, name in enumerate(trained) if name not in rest), 0)  # all before it are outside
    return Inventory(tuple(blocks), tuple(trained[name] for name in trained if name in rest), before=first), rest


def _piece(name: str, shape: Shape, cuts: Mapping[str, str], ranks: int) -> Shape:
    """The shape of a tensor rank's piece of a parameter."""
    how = how_cut(name.rpartition(".")[0], cuts)
    if how in ("", "input") or (how == "row" and len(shape) == 1):
        return shape
    dimension = 1 if how == "row" else 0
    return (*shape[:dimension], shape[dimension] // ranks, *shape[dimension + 1 :])


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
    stages = plan.pipeline * plan.virtual_stages
    inputs, targets = workload.split(batch)  # pyright: ignore[reportOptionalCall]
    boundary = matmul = attention = 0
    held: list[tuple[Shape, ...]] = []
    for index in range(stages):
        own = stage_layers(len(workload.cut_points), stages, index)
        part: nn.Module = workload.cut(workload.model, own.start, own.stop)  # pyright: ignore[reportOptionalCall]
        held.append(tuple(tuple(one.shape) for name, one in part.named_parameters() if name in outside))
        outputs: list[torch.Tensor] = []

        def work(part: nn.Module = part, given: Any = inputs, kept: list[torch.Tensor] = outputs, at: int = index):
            kept.append(part(given))
            last = at == stages - 1
            value = workload.criterion(kept[0], targets) if last else kept[0].sum()  # pyright: ignore
            value.backward()

        counted = count_flops(work)
        if index % plan.pipeline == plan.pipeline - 1:
            matmul, attention = matmul + counted[0], attention + counted[1]
        inputs = outputs[0].detach().requires_grad_()
        if index == 0:
            boundary = inputs.numel() // samples
    workload.model.zero_grad(set_to_none=True)
    return _with(
        found,
        boundary=boundary,
        first_outside=held[0],
        last_outside=held[-1],
        matmul_flops=matmul,
        attention_flops=attention,
    )


def _tensor_cuts(workload: Workload, batch: Any, samples: int) -> TensorCuts:
    """What DTensor sums and gathers, seen from what goes in and out of the modules that are cut."""
    model: nn.Module = workload.model
    how = {name: how_cut(name, workload.tensor_cuts) for name, _ in model.named_modules()}
    told: dict[str, list[int]] = {"forward": [], "tables": [], "backward": [], "gathered": []}

    def note(name: str) -> Callable[..., None]:
        kind = how[name]
        within = any(how[outer] == "input" and name.startswith(outer + ".") for outer in how)

        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if kind in ("row", "vocabulary"):
                told["forward" if kind == "row" else "tables"].append(output.numel() // samples)
            if kind == "gathered":
                told["gathered"].append(output.numel() // samples)
            if kind == "input" or (kind in ("column", "gathered") and not within):
                told["backward"] += [given[0].numel() // samples] if given[0].requires_grad else []

        return hook

    cut = {name: module for name, module in model.named_modules() if how[name]}
    handles = [module.register_forward_hook(note(name)) for name, module in cut.items()]
    try:
        workload.loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    products = {name: module for name, module in cut.items() if how[name] != "input"}
    whole_bias = {name: 0 if how[name] != "row" else _bias(module) for name, module in products.items()}
    parameters = sum(one.numel() for module in products.values() for one in module.parameters(recurse=False))
    sums = {kind: tuple(values) for kind, values in told.items()}
    return TensorCuts(**sums, cut_parameters=parameters - sum(whole_bias.values()), modules=len(products))


def _bias(module: nn.Module) -> int:
    bias = getattr(module, "bias", None)
    return bias.numel() if isinstance(bias, torch.Tensor) else 0
