"""Data parallelism with sharded state: ZeRO stages 2 and 3 by PyTorch's fully_shard, stage 1 by one flat buffer.

Stage 3 gathers each block's parameters for forward and again for backward, stage 2 once; both sum gradients in every
micro-step.  Stage 1 sums them once a step, updates a share on each worker and gathers the parameters.  `spread` is the
same for what tensor ranks and pipeline stages hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from datahall.base.workload import Workload
from datahall.compute import execute
from datahall.compute.execute_flat import FlatState
from datahall.compute.execute_grid import Grid
from datahall.compute.execute_local import HoldsModel, LocalState, trained
from datahall.compute.plan import ComputePlan


class Sharded(HoldsModel):
    """Each worker takes its share of samples, or of their tokens, through the whole model.

    The optimiser's state, gradients and parameters are spread over these workers, or over groups of them.
    """

    def __init__(self, workload: Workload, plan: ComputePlan, bucket_bytes: int, device: torch.device) -> None:
        super().__init__(workload, plan, device)
        self.state = spread(workload, plan, [self.module], list(trained([self.module])), self.grid, bucket_bytes)


def spread(
    workload: Workload,
    plan: ComputePlan,
    modules: Sequence[nn.Module],
    names: Sequence[str],
    grid: Grid,
    bucket_bytes: int = 0,
) -> FlatState | LocalState:
    """What a worker holds of `modules`, spread over data and context ranks as the plan's ZeRO stage says.

    `names` are all trained parameters of the whole model.  With ZeRO stages 2 and 3 PyTorch sums the gradients itself,
    and gives their mean; otherwise they travel once a step, without ZeRO in buckets.
    """
    ranks = grid.sharing
    if plan.zero_stage == 1 and trained(modules):
        whole = grid.layout.tensor * grid.layout.pipeline == 1
        return FlatState(workload, modules, ranks, "" if whole else f"{grid.place.stage}.{grid.place.tensor}.")
    if plan.zero_stage > 1 and ranks is not None:
        for module in modules:
            _shard(module, workload.cut_points, plan, ranks)
        return LocalState(workload, modules, names)
    return LocalState(workload, modules, names, grid.copies, bucket_bytes)


def _shard(module: nn.Module, cut_points: Sequence[str], plan: ComputePlan, mesh: DeviceMesh) -> None:
    """Shard the blocks of a model or of a stage, and what is outside of them.

    Stages hand activations to one another in 32 bits whatever their products are in.
    """
    dtype = execute.autocast_dtype(plan.precision)
    wide = torch.float32 if dtype else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=wide)
    staged = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=wide, output_dtype=wide, cast_forward_inputs=False)
    inside = dict(module.named_modules())
    for name in cut_points:
        if inside.get(name) is not None:
            fully_shard(inside[name], mesh=mesh, mp_policy=policy, reshard_after_forward=plan.zero_stage == 3)
    fully_shard(module, mesh=mesh, mp_policy=staged if plan.pipeline > 1 else policy, reshard_after_forward=False)
