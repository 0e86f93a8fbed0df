"""The groups of a split, as every worker of it would make them, without starting any."""

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from datahall.base.errors import Refused
from datahall.compute.execute_grid import Grid
from datahall.compute.layout import check_runnable, groups_nest
from datahall.compute.plan import ComputePlan


@pytest.mark.parametrize(
    ("plan", "everything", "experts"),
    [
        (ComputePlan(data=4, expert=2, zero_stage=1), [[0, 1, 2, 3]], [[0, 2], [1, 3]]),
        (ComputePlan(data=4, expert=4, zero_stage=3), [[0, 1, 2, 3]], [[0], [1], [2], [3]]),
        (ComputePlan(data=4, expert=2, zero_stage=3, shard_group=2), [[[0, 1], [2, 3]]], [[[0], [2]], [[1], [3]]]),
        (ComputePlan(data=2, expert=2, zero_stage=1, pipeline=2), [[0, 1], [2, 3]], [[0], [1], [2], [3]]),
        (
            ComputePlan(data=8, expert=2, zero_stage=3, shard_group=4),
            [[[0, 1, 2, 3], [4, 5, 6, 7]]],
            [[[0, 2], [4, 6]], [[1, 3], [5, 7]]],
        ),
        (
            ComputePlan(data=8, expert=4, zero_stage=1, shard_group=2),
            [[[0, 1], [2, 3], [4, 5], [6, 7]]],
            [[[0], [4]], [[1], [5]], [[2], [6]], [[3], [7]]],
        ),
        (ComputePlan(data=2, context=2, zero_stage=3, tensor=2), [[0, 2, 4, 6], [1, 3, 5, 7]], None),
        (ComputePlan(data=4, zero_stage=1, shard_group=1), [[[0], [1], [2], [3]]], None),
    ],
)
def test_zero_spreads_over_those_that_hold_the_same(plan, everything, experts):
    groups = [_spreading(plan, rank) for rank in range(plan.devices)]
    assert _different(all_of for all_of, _ in groups) == everything
    assert experts is None or _different(own for _, own in groups) == experts


def test_groups_that_overlap_are_none():
    assert groups_nest(ComputePlan(data=8, expert=2, zero_stage=3, shard_group=4))
    assert groups_nest(ComputePlan(data=12, expert=3, shard_group=4))  # without ZeRO nothing is shared
    assert not groups_nest(ComputePlan(data=12, expert=3, zero_stage=1, shard_group=4))
    assert not groups_nest(ComputePlan(data=6, expert=4))


def test_zero_has_four_stages():
    with pytest.raises(Refused, match="stages 0 to 3, not 7"):
        check_runnable(ComputePlan(data=2, zero_stage=7))


def _spreading(plan, rank):
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.devices)
    try:
        grid = Grid(plan, torch.device("cpu"))
        return grid.spreading().mesh.tolist(), grid.spreading(plan.expert).mesh.tolist()
    finally:
        dist.destroy_process_group()


def _different(groups):
    found = []
    for ranks in groups:
        if ranks not in found:
            found.append(ranks)
    return found
