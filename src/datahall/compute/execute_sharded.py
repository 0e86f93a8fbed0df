"""Data parallelism with sharded state: ZeRO stages 2 and 3 by PyTorch's fully_shard, stage 1 by one flat buffer.

Stage 3 gathers each block's parameters for forward and again for backward, stage 2 once; both sum gradients in every
micro-step.  Stage 1 sums them once a step, updates a share on each worker and gathers the parameters.  `spread` is the
same for what tensor ranks and pipeline stages hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, HSDPMeshInfo, ShardPlacementResult
from torch.distributed.tensor import DTensor, Shard

from datahall.base.workload import Workload
from datahall.compute import execute
from datahall.compute.execute_experts import Experts
from datahall.compute.execute_flat import FlatState, Holding
from datahall.compute.execute_grid import Grid
from datahall.compute.execute_local import HoldsModel, LocalState, trained
from datahall.compute.plan import ComputePlan


class Sharded(HoldsModel):
    """Each worker takes its share of samples, or of their tokens, through the whole model.

    The optimiser's state, gradients and parameters are spread over these workers, or over groups of them.  Experts may
    be shared out over groups of their own.
    """

    def __init__(self, workload: Workload, plan: ComputePlan, bucket_bytes: int, device: torch.device) -> None:
        super().__init__(workload, plan, device)
        self.state = spread(workload, plan, [self.module], list(self.shapes), self.grid, self.experts, bucket_bytes)


def spread(
    workload: Workload,
    plan: ComputePlan,
    modules: Sequence[nn.Module],
    names: Sequence[str],
    grid: Grid,
    experts: Experts,
    bucket_bytes: int = 0,
    elsewhere: Sequence[str] = (),
) -> FlatState | LocalState:
    """What a worker holds of `modules`, spread over the workers that hold the same as the plan's ZeRO stage says.

    Those are all data and context ranks, and of `experts` the ones that hold the same.  `names` are all trained
    parameters of the whole model, `elsewhere` those that an earlier stage holds too.  With ZeRO stages 2 and 3 PyTorch
    sums the gradients itself; otherwise they travel once a step, without ZeRO in buckets.
    """
    held = trained(modules)
    routed = [name for name in held if name in experts.owners]
    others = [name for name in held if name not in experts.owners]
    if plan.zero_stage == 1 and held:
        holdings = [Holding(others, grid.spreading()), Holding(routed, grid.spreading(experts.ranks))]
        same = {name for name, one in held.items() if grid.place.tensor and not _is_cut(one)}
        return FlatState(workload, modules, holdings, names, same | set(elsewhere))
    if plan.zero_stage > 1 and (ranks := grid.spreading()) is not None:
        owned = _Meshes(ranks, grid.spreading(experts.ranks), experts.parameters(modules))
        for module in modules:
            _shard(module, workload.cut_points, plan, owned)
        return LocalState(workload, modules, names)
    holders = [(grid.holders(), others), (grid.holders(experts.ranks), routed)]
    summed = [(ranks.get_group(), own) for ranks, own in holders if ranks is not None]
    return LocalState(workload, modules, names, summed, bucket_bytes)


def _is_cut(parameter: nn.Parameter) -> bool:
    """Whether tensor ranks hold different pieces of a parameter."""
    return isinstance(parameter, DTensor) and any(placement.is_shard() for placement in parameter.placements)


class _Meshes:
    """Over which workers `fully_shard` spreads a parameter: `experts` over those that hold the same."""

    def __init__(self, ranks: DeviceMesh, same_experts: DeviceMesh | None, experts: Sequence[nn.Parameter]) -> None:
        self.ranks, self.experts = ranks, set(experts)
        self.same = None if same_experts is None else _mesh_info(same_experts)

    def placed(self, parameter: nn.Parameter) -> ShardPlacementResult | None:
        """As `shard_placement_fn` of fully_shard; None: over all of `ranks`."""
        if self.same is None or parameter not in self.experts:
            return None
        return ShardPlacementResult(Shard(0), self.same)


def _mesh_info(mesh: DeviceMesh) -> FSDPMeshInfo:
    return FSDPMeshInfo(mesh, shard_mesh_dim=0) if mesh.ndim == 1 else HSDPMeshInfo(mesh, 1, 0)


def _shard(module: nn.Module, cut_points: Sequence[str], plan: ComputePlan, meshes: _Meshes) -> None:
    """Shard the blocks of a model or of a stage, and what is outside of them.

    Stages hand activations to one another in 32 bits whatever their products are in.
    """
    dtype = execute.autocast_dtype(plan.precision)
    wide = torch.float32 if dtype else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=wide)
    staged = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=wide, output_dtype=wide, cast_forward_inputs=False)
    inside = dict(module.named_modules())
    own: dict[str, Any] = {"mesh": meshes.ranks, "shard_placement_fn": meshes.placed if meshes.experts else None}
    blocks = [inside[name] for name in cut_points if name in inside]
    for block in blocks:
        fully_shard(block, mp_policy=policy, reshard_after_forward=plan.zero_stage == 3, **own)
    fully_shard(module, mp_policy=staged if plan.pipeline > 1 else policy, reshard_after_forward=False, **own)
    for part in (*blocks, module):
        _sum_gradients(part)


def _sum_gradients(part: Any) -> None:
    """Have a sharded module sum its gradients over workers, not take their mean: an expert's mean is not over all."""
    part.set_gradient_divide_factor(1.0)
    part.set_force_sum_reduction_for_comms(True)
