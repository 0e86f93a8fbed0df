"""The process groups of a split: one mesh of all workers, of which every executor takes the dimensions that it needs.

Only dimensions with more than one worker exist, in the order of `layout.Layout`.  Groups are made by all workers
together, so each worker has to ask for the same ones in the same order.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from datahall.compute.layout import Layout
from datahall.compute.plan import ComputePlan


class Grid:
    """Where this worker sits in a plan's split, and its groups.

    Dimensions are pipeline, replicate, data, context and tensor; `replicate` are groups of data ranks that each share
    out a copy of their own (`ComputePlan.shard_group`), or all experts (`ComputePlan.expert`).
    """

    def __init__(self, plan: ComputePlan, device: torch.device) -> None:
        grouped = dist.is_initialized()
        self.layout = Layout.of(plan, dist.get_world_size() if grouped else 1)
        self.place = self.layout.place(dist.get_rank() if grouped else 0)
        sizes = _sizes(self.layout, plan)
        self.names = tuple(name for name, size in sizes.items() if size > 1)
        self.mesh = (
            init_device_mesh(device.type, tuple(sizes[name] for name in self.names), mesh_dim_names=self.names)
            if self.names
            else None
        )

    def along(self, *names: str) -> DeviceMesh | None:
        """The mesh of these dimensions around this worker; None where it is alone along them."""
        present = tuple(name for name in self.names if name in names)
        return self.mesh[present] if self.mesh is not None and present else None

    def group(self, *names: str) -> dist.ProcessGroup | None:
        """The workers along all of these dimensions, as one group; None where there is one worker."""
        mesh = self.along(*names)
        if mesh is None:
            return None
        return (mesh if mesh.ndim == 1 else mesh._flatten()).get_group()

    @property
    def sharing(self) -> DeviceMesh | None:
        """The same, as ZeRO spreads over them what they hold: of one dimension, or of groups by their members."""
        within = self.along("data", "context")
        if within is None or within.ndim == 1:
            return self.along("replicate", "data", "context")
        flat = within._flatten(mesh_dim_name="data_context")
        return self.mesh["replicate", "data_context"] if self.mesh and "replicate" in self.names else flat

    @property
    def copies(self) -> dist.ProcessGroup | None:
        """The workers that hold the same parameters, and add up their gradients: data and context ranks."""
        return self.group("replicate", "data", "context")


class Placed:
    """The part of an executor that follows from its worker's place."""

    data_rank: int
    data_world: int
    logs_samples: bool
    group_key: int

    def take_place(self, grid: Grid) -> None:
        """As the attributes of Executor say; workers with the same stage and tensor rank add up their gradients."""
        place, layout = grid.place, grid.layout
        self.data_rank, self.data_world = place.data, layout.data
        self.logs_samples = place.stage == place.context == place.tensor == 0
        self.group_key = place.stage * layout.tensor + place.tensor


def _sizes(layout: Layout, plan: ComputePlan) -> dict[str, int]:
    """Workers along each dimension, outermost first."""
    within = plan.shards // plan.context if plan.zero_stage else layout.data
    within = plan.expert if plan.expert > 1 else within
    return {
        "pipeline": layout.pipeline,
        "replicate": layout.data // within,
        "data": within,
        "context": layout.context,
        "tensor": layout.tensor,
    }
