"""A checkpoint of one split is read by another, and back: bit for bit, the optimiser's state included."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_cases import SHAPE, small_case

from datahall.compute import execute
from datahall.compute.plan import ComputePlan
from datahall.real.group import leave_together
from datahall.storage.execute import load, save
from datahall.workloads import entry

SPLITS = {
    "data": ComputePlan(data=2, micro_batch=4, precision="fp32"),
    "alone": ComputePlan(micro_batch=8, precision="fp32"),
    "zero1": ComputePlan(data=2, zero_stage=1, micro_batch=4, precision="fp32"),
    "zero1 in groups": ComputePlan(data=4, zero_stage=1, shard_group=2, micro_batch=2, precision="fp32"),
    "zero1 x tensor": ComputePlan(
        data=2, tensor=2, zero_stage=1, micro_batch=4, precision="fp32", sequence_parallel=False
    ),
    "zero1 x pipeline": ComputePlan(data=2, pipeline=2, zero_stage=1, micro_batch=2, accumulation=2, precision="fp32"),
    "zero3": ComputePlan(data=2, zero_stage=3, micro_batch=4, precision="fp32"),
    "zero3 x tensor": ComputePlan(
        data=2, tensor=2, zero_stage=3, micro_batch=4, precision="fp32", sequence_parallel=False
    ),
    "zero3 x pipeline": ComputePlan(data=2, pipeline=2, zero_stage=3, micro_batch=2, accumulation=2, precision="fp32"),
}


@pytest.mark.soak
@pytest.mark.parametrize(
    "other", ["zero3 x tensor", "zero3 x pipeline", "zero1 in groups", "zero1 x tensor", "zero1 x pipeline"]
)
@pytest.mark.parametrize("two", ["data", "zero1", "zero3"])
def test_a_checkpoint_goes_from_split_to_split_and_back(two, other, tmp_path):
    goes_and_comes_back(two, other, tmp_path)


def test_a_checkpoint_of_zero1_is_read_by_one_process_and_back(tmp_path):
    goes_and_comes_back("alone", "zero1", tmp_path)


def goes_and_comes_back(two, other, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    _together(other, tmp_path, None, first)
    _together(two, tmp_path, first, second)
    _together(other, tmp_path, second, third)
    written, read, back = (_whole(path) for path in (first, second, third))
    assert any(name.endswith(".exp_avg_sq") and value.abs().sum() > 0 for name, value in written.items())
    for found in (read, back):
        assert found.keys() == written.keys()
        assert all(torch.equal(found[name], value) for name, value in written.items())


def _together(split: str, folder: Path, source: Path | None, target: Path) -> None:
    world = SPLITS[split].devices
    meeting = folder / f"meeting of {target.name}"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(rank, split, meeting, source, target)) for rank in range(world)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)


def _work(rank: int, split: str, meeting: Path, source: Path | None, target: Path) -> None:
    """Train one step where there is no source, else load it; then save."""
    torch.set_num_threads(1)
    plan = SPLITS[split]
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=plan.devices)
    workload = entry.build(small_case(replace(SHAPE, layers=4), seed=0 if source is None else 7))
    executor = execute.prepare(workload, plan, bucket_bytes=2**20, device=torch.device("cpu"))
    if source is None:
        ids = torch.arange(plan.global_batch).view(plan.data, plan.accumulation, -1)[executor.data_rank].tolist()
        executor.gradients([workload.data.batch(some) for some in ids], plan.accumulation, lambda _: None)
        executor.update()
    else:
        state = executor.tensors(complete=True)
        load(source, state)
        executor.restore(state)
    save(target, 1, executor.tensors())
    leave_together()


def _whole(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by a process that is alone and a split that cuts nothing."""
    workload = entry.build(small_case(replace(SHAPE, layers=4), seed=7))
    executor = execute.prepare(workload, SPLITS["alone"], bucket_bytes=2**20, device=torch.device("cpu"))
    state = executor.tensors(complete=True)
    assert not load(path, state).unread
    return state
