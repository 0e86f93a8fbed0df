"""The process groups of a split: one mesh of all workers, of which every executor takes the dimensions that it needs.

Only dimensions with more than one worker exist, in the order of `layout.Layout`.  Groups are made by all workers
together, so each worker has to ask for the same ones in the same order.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from datahall.compute.layout import Layout
from datahall.compute.plan import ComputePlan

_COPIES = "copies"  # dimensions along the copies, each with the number of neighbours that its own are apart
_ALONE = "alone"  # a dimension of one worker


class Grid:
    """Where this worker sits in a plan's split, and its groups.

    Dimensions are pipeline, copies and tensor.  Along `copies` (data and context ranks, which hold the same parameters)
    neighbours form groups inside groups: those that share a sequence (`ComputePlan.context`), all experts (`expert`),
    or a copy of what ZeRO spreads (`shard_group`); so there are as many dimensions as sizes of groups.
    """

    def __init__(self, plan: ComputePlan, device: torch.device) -> None:
        grouped = dist.is_initialized()
        self.layout = Layout.of(plan, dist.get_world_size() if grouped else 1)
        self.place = self.layout.place(dist.get_rank() if grouped else 0)
        self.shards = min(plan.shards, self.layout.copies) if plan.zero_stage else 1
        sizes = _sizes(self.layout, plan, self.shards)
        self.names = tuple(sizes)
        self.mesh = (
            init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=self.names) if self.names else None
        )

    def along(self, *names: str) -> DeviceMesh | None:
        """The mesh of these dimensions around this worker, made one; None where it is alone along them."""
        present = tuple(name for name in self.names if name in names)
        if self.mesh is None or not present:
            return None
        mesh = self.mesh[present]
        return mesh if mesh.ndim == 1 else mesh._flatten()

    def group(self, name: str) -> dist.ProcessGroup | None:
        """The workers along pipeline, tensor or context; None where there is one."""
        mesh = self.neighbours(self.layout.context) if name == "context" else self.along(name)
        return None if mesh is None else mesh.get_group()

    def neighbours(self, count: int) -> DeviceMesh | None:
        """The group of `count` workers along the copies that this one is in."""
        return self._between(1, count)

    def holders(self, sharing_out: int = 1) -> DeviceMesh | None:
        """The workers that hold the same parameters, and add up their gradients: all along the copies.

        Of what groups of neighbours are `sharing_out` among them, those with the same place in their groups.
        """
        return self._between(sharing_out, self.layout.copies)

    def spreading(self, sharing_out: int = 1) -> DeviceMesh | None:
        """The same, as ZeRO spreads over them what they hold: of one dimension, or of groups by their members."""
        inside = max(self.shards, sharing_out)
        members = self.along(_ALONE) if inside == sharing_out else self._between(sharing_out, inside)
        groups = self._between(inside, self.layout.copies)
        if members is None or groups is None:
            return members
        return DeviceMesh._concatenate([groups, members])

    def _between(self, inner: int, outer: int) -> DeviceMesh | None:
        """Of groups of `outer` workers along the copies, those with the same place in smaller ones of `inner`."""
        apart = {name: int(name.removeprefix(_COPIES)) for name in self.names if name.startswith(_COPIES)}
        return self.along(*(name for name, count in apart.items() if inner <= count < outer))


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


def _sizes(layout: Layout, plan: ComputePlan, shards: int) -> dict[str, int]:
    """Workers along each dimension, outermost first; what ZeRO spreads may be spread over one worker alone."""
    groups = sorted({1, layout.context, plan.expert, shards, layout.copies})
    copies = {f"{_COPIES}{inner}": outer // inner for inner, outer in pairwise(groups)}
    sizes = {"pipeline": layout.pipeline, **dict(reversed(copies.items())), "tensor": layout.tensor}
    several = {name: size for name, size in sizes.items() if size > 1}
    return {**several, _ALONE: 1} if plan.zero_stage and shards <= plan.expert and layout.copies > 1 else several
