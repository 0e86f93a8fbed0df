"""What a pipeline's stages hold, by the formula and by what PyTorch's allocator gave out, schedule by schedule.

Resident memory, which runs are measured by on a processor, holds what the C library keeps as well, and that by chance.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_cases import small_case
from torch.profiler import ProfilerActivity, profile

from datahall.case.model import ModelShape
from datahall.compute import execute
from datahall.compute.counts import ShapeCounts
from datahall.compute.memory import MemoryHabits, memory
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.real.group import leave_together
from datahall.workloads import entry

SHAPE = ModelShape("stages", layers=4, hidden=192, heads=6, kv_heads=6, head_dim=32, ffn=512, vocab=256)
SEQUENCE = 96
ONE = ComputePlan(pipeline=2, micro_batch=2, accumulation=8, precision="fp32")
EAGER = MemoryHabits(logit_bytes=12.0)  # scores, their logarithms and gradients in 32 bits
PLANS = {
    "many words": (ONE, 12_000),
    "gpipe": (replace(ONE, schedule="gpipe"), 256),
    "gpipe, many words": (replace(ONE, schedule="gpipe"), 12_000),
    "zero-bubble": (replace(ONE, schedule="zero-bubble"), 256),
    "zero-bubble, many words": (replace(ONE, schedule="zero-bubble"), 12_000),
    "four stages": (replace(ONE, pipeline=4), 256),
    "four stages, zero-bubble": (replace(ONE, pipeline=4, schedule="zero-bubble"), 256),
    "four stages, zero-bubble, many words": (replace(ONE, pipeline=4, schedule="zero-bubble"), 12_000),
    "interleaved": (replace(ONE, virtual_stages=2, schedule="interleaved"), 256),
}
SOAK = [name for name in PLANS if name not in ("many words", "zero-bubble")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return held_bytes(ONE, 256, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] if name in SOAK else []) for name in PLANS]
)
def test_the_fullest_stage_holds_what_the_formula_says(name, plain, tmp_path):
    """Beside 1F1B on two stages with few words: what eager layers keep on top of the formula is in both."""
    plan, vocab = PLANS[name]
    measured = held_bytes(plan, vocab, tmp_path) / plain
    assert activations(plan, vocab) / activations(ONE, 256) == pytest.approx(measured, rel=0.2)


def activations(plan: ComputePlan, vocab: int) -> float:
    counts = ShapeCounts.of(replace(SHAPE, vocab=vocab))
    return float(memory(counts, SEQUENCE, PlanNumbers.of(plan), EAGER).activations)


def held_bytes(plan: ComputePlan, vocab: int, folder: Path) -> float:
    """Bytes at the peak of one pass of the schedule on the stage that holds most, less the gradients that stay."""
    context = multiprocessing.get_context("spawn")
    found: Queue[int] = context.Queue()
    workers = [
        context.Process(target=_work, args=(rank, plan, vocab, folder / "meeting", found))
        for rank in range(plan.pipeline)
    ]
    for worker in workers:
        worker.start()
    held = [found.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    return max(held)


def _work(rank: int, plan: ComputePlan, vocab: int, meeting: Path, found: Queue[int]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=plan.devices)
    case = small_case(replace(SHAPE, vocab=vocab), global_batch=plan.global_batch, sequence=SEQUENCE)
    workload = entry.build(case)
    executor = execute.prepare(workload, plan, bucket_bytes=2**20, device=torch.device("cpu"))
    ids = torch.arange(plan.global_batch).view(plan.accumulation, -1).tolist()
    batches = [workload.data.batch(some) for some in ids]
    executor.gradients(batches, plan.accumulation, lambda _: None)
    executor.update()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        executor.gradients(batches, plan.accumulation, lambda _: None)
    held = peak = 0
    for event in seen.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    found.put(peak - max(0, held))
    leave_together()
