"""Splits of small cases that the tests of both worlds run, and how a run is held against one process and its counts."""

from dataclasses import replace

import pytest

from datahall.compute.adapters import adapters_of
from datahall.compute.handed import handed_over
from datahall.compute.layout import Layout
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.compute.schedule import idle_share
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import training
from datahall.real.measure import read_kind
from datahall.storage.plan import StoragePlan
from datahall.virtual.step_time import bubble_share
from datahall.virtual.training import forecast

STEPS = 3
COUNTED = ("samples", "tokens", "steps", "matmul_flops", "attention_flops", "collective_bytes", "collective_calls")
ALONE = ComputePlan(micro_batch=8, precision="fp32")
BRIEF = {
    "zero1": ComputePlan(data=2, zero_stage=1, micro_batch=2, accumulation=2, precision="fp32"),
    "zero3": ComputePlan(data=2, zero_stage=3, micro_batch=2, accumulation=2, precision="fp32"),
    "tensor": ComputePlan(tensor=2, micro_batch=4, accumulation=2, precision="fp32", sequence_parallel=False),
    "zero3 x tensor": ComputePlan(
        data=2, tensor=2, zero_stage=3, micro_batch=2, accumulation=2, precision="fp32", sequence_parallel=False
    ),
    "context": ComputePlan(context=2, micro_batch=4, accumulation=2, precision="fp32"),
    "interleaved": ComputePlan(
        pipeline=2, virtual_stages=2, micro_batch=2, accumulation=4, precision="fp32", schedule="interleaved"
    ),
}
GRID = ComputePlan(tensor=2, pipeline=2, micro_batch=2, accumulation=4, precision="fp32", sequence_parallel=False)
LONG = {
    "zero2": replace(BRIEF["zero3"], zero_stage=2),
    "zero3 recomputed": replace(BRIEF["zero3"], recompute="full"),
    "cores recomputed": replace(BRIEF["zero3"], recompute="selective"),
    "hybrid": replace(BRIEF["zero3"], data=4, shard_group=2, accumulation=1),
    "gpipe": ComputePlan(pipeline=2, micro_batch=2, accumulation=4, precision="fp32", schedule="gpipe"),
    "1f1b": ComputePlan(pipeline=2, micro_batch=2, accumulation=4, precision="fp32"),
    "four stages": ComputePlan(pipeline=4, micro_batch=1, accumulation=8, precision="fp32"),
    "data x tensor": replace(BRIEF["tensor"], data=2, micro_batch=2),
    "data x pipeline": ComputePlan(data=2, pipeline=2, micro_batch=2, accumulation=2, precision="fp32"),
    "sequence": replace(BRIEF["tensor"], sequence_parallel=True),
    "tensor recomputed": replace(BRIEF["tensor"], recompute="full"),
    "sequence recomputed": replace(BRIEF["tensor"], sequence_parallel=True, recompute="full"),
    "data x sequence": replace(BRIEF["tensor"], data=2, micro_batch=2, sequence_parallel=True),
    "tensor x pipeline": GRID,
    "sequence x pipeline": replace(GRID, sequence_parallel=True),
    "sequence x interleaved": replace(
        GRID, sequence_parallel=True, virtual_stages=2, schedule="interleaved", accumulation=4
    ),
    "data x tensor x pipeline": replace(GRID, data=2, accumulation=2),
    "data x sequence x pipeline": replace(GRID, data=2, accumulation=2, sequence_parallel=True),
}
LONG |= {f"zero{stage} x tensor": replace(BRIEF["zero3 x tensor"], zero_stage=stage) for stage in (1, 2)}
LONG |= {f"zero{stage} x pipeline": replace(LONG["data x pipeline"], zero_stage=stage) for stage in (1, 2, 3)}
LONG |= {
    "zero-bubble": replace(LONG["1f1b"], schedule="zero-bubble"),
    "zero-bubble, four stages": replace(LONG["four stages"], schedule="zero-bubble"),
    "zero-bubble x sequence": replace(GRID, data=2, accumulation=2, schedule="zero-bubble", sequence_parallel=True),
    "zero-bubble x zero1": replace(LONG["data x pipeline"], schedule="zero-bubble", zero_stage=1),
    "zero1 x sequence x pipeline": replace(GRID, data=2, accumulation=2, zero_stage=1, sequence_parallel=True),
    "zero3 x sequence": replace(BRIEF["zero3 x tensor"], sequence_parallel=True),
    "zero3 x tensor x pipeline": replace(GRID, data=2, accumulation=2, zero_stage=3),
    "zero3 x sequence x pipeline": replace(GRID, data=2, accumulation=2, zero_stage=3, sequence_parallel=True),
    "zero3 x gpipe": replace(LONG["zero3 x pipeline"], schedule="gpipe"),
    "zero3 x interleaved": replace(BRIEF["interleaved"], data=2, micro_batch=1, zero_stage=3),
    "zero1 in groups": replace(LONG["hybrid"], zero_stage=1),
    "zero2 in groups": replace(LONG["hybrid"], zero_stage=2),
}
LONG |= {
    "few micro-batches": replace(LONG["four stages"], micro_batch=4, accumulation=2),
    "zero3 x few micro-batches": replace(LONG["four stages"], data=2, micro_batch=2, accumulation=2, zero_stage=3),
    "zero-bubble, few micro-batches": replace(LONG["zero-bubble, four stages"], micro_batch=4, accumulation=2),
    "zero-bubble x zero2": replace(LONG["zero-bubble x zero1"], zero_stage=2),
    "zero-bubble x zero3": replace(LONG["zero-bubble x zero1"], zero_stage=3, micro_batch=1, accumulation=4),
    "zero-bubble x zero3 in groups": replace(
        LONG["zero-bubble x zero1"], zero_stage=3, data=4, shard_group=2, micro_batch=1
    ),
    "zero-bubble x zero3 x sequence": replace(LONG["zero-bubble x sequence"], zero_stage=3),
    "zero-bubble, cores recomputed": replace(LONG["zero-bubble"], recompute="selective"),
    "zero-bubble x zero3, cores recomputed": replace(LONG["zero-bubble x zero1"], zero_stage=3, recompute="selective"),
    "zero-bubble x context": replace(LONG["zero-bubble"], context=2),
    "zero-bubble x zero3 x context": replace(LONG["zero-bubble"], context=2, zero_stage=3),
    "zero-bubble x interleaved": replace(BRIEF["interleaved"], schedule="zero-bubble"),
    "zero-bubble x interleaved x zero3": replace(LONG["zero3 x interleaved"], schedule="zero-bubble"),
}
RING = replace(BRIEF["context"], sequence_parallel=False)
LONG |= {
    "data x context": replace(RING, data=2, micro_batch=2),
    "four contexts": replace(RING, context=4),
    "context recomputed": replace(RING, recompute="full"),
    "context, cores recomputed": replace(RING, recompute="selective"),
    "zero1 x context": replace(RING, data=2, micro_batch=2, zero_stage=1),
    "zero2 x context": replace(RING, zero_stage=2),
    "zero3 x context": replace(RING, data=2, micro_batch=2, zero_stage=3),
    "zero3 x context in groups": replace(RING, data=2, micro_batch=2, zero_stage=3, shard_group=2),
    "zero1 x context in groups": replace(RING, data=4, micro_batch=1, zero_stage=1, shard_group=4),
    "context x tensor": replace(RING, tensor=2),
    "context x sequence": replace(RING, tensor=2, sequence_parallel=True),
    "zero3 x context x tensor": replace(RING, tensor=2, zero_stage=3),
    "context x pipeline": replace(RING, pipeline=2, micro_batch=2, accumulation=4),
    "context x interleaved": replace(BRIEF["interleaved"], context=2),
    "zero3 x context x pipeline": replace(RING, pipeline=2, micro_batch=2, accumulation=4, zero_stage=3),
    "context x grid": replace(GRID, context=2),
}
NARROW = {
    "zero3 bf16": replace(BRIEF["zero3"], precision="bf16"),
    "tensor bf16": replace(BRIEF["tensor"], precision="bf16"),
    "pipeline bf16": replace(LONG["1f1b"], precision="bf16"),
    "zero3 x tensor bf16": replace(BRIEF["zero3 x tensor"], precision="bf16"),
    "zero3 x pipeline bf16": replace(LONG["zero3 x pipeline"], precision="bf16"),
    "sequence x pipeline bf16": replace(LONG["sequence x pipeline"], precision="bf16"),
    "context bf16": replace(RING, precision="bf16"),
    "zero3 x context bf16": replace(LONG["zero3 x context"], precision="bf16"),
    "context x pipeline bf16": replace(LONG["context x pipeline"], precision="bf16"),
    "tensor recomputed bf16": replace(LONG["tensor recomputed"], precision="bf16"),
    "zero-bubble x zero3 bf16": replace(LONG["zero-bubble x zero3"], precision="bf16"),
    "zero3 x grid bf16": replace(LONG["zero3 x sequence x pipeline"], precision="bf16"),
}
DEEP = {  # four stages a worker
    "many stages": replace(BRIEF["interleaved"], virtual_stages=4),
    "many stages x zero2": replace(LONG["zero3 x interleaved"], virtual_stages=4, zero_stage=2),
    "many stages x zero3": replace(LONG["zero3 x interleaved"], virtual_stages=4),
    "many stages x zero-bubble x zero3": replace(LONG["zero3 x interleaved"], virtual_stages=4, schedule="zero-bubble"),
}
COPIED = {  # four tensor ranks, two heads of keys and values
    "copied": ComputePlan(tensor=4, micro_batch=4, accumulation=2, precision="fp32", sequence_parallel=False),
    "copied sequence": ComputePlan(tensor=4, micro_batch=4, accumulation=2, precision="fp32"),
    "copied x zero1": ComputePlan(data=2, tensor=4, micro_batch=2, accumulation=2, precision="fp32", zero_stage=1),
    "copied x zero3": ComputePlan(data=2, tensor=4, micro_batch=2, accumulation=2, precision="fp32", zero_stage=3),
    "copied x pipeline": ComputePlan(tensor=4, pipeline=2, micro_batch=2, accumulation=4, precision="fp32"),
    "copied recomputed": ComputePlan(tensor=4, micro_batch=8, precision="fp32", recompute="full"),
}


def run_split(case, compute, folders, steps=None, storage=None, injection=None):
    plan = Plan(compute, storage or StoragePlan(), NetworkPlan(), case.hash())
    folder = folders.mktemp("run") / "run"
    return training.run(case, plan, folder, steps=steps, injection=injection, keep_weights=True)


def counts_agree(case, compute, run):
    layout = Layout.of(compute)
    for worker in run.steps[-1].workers:
        stage = layout.place(worker.rank).stage
        adapters = adapters_of(case.application)
        assert worker.kinds == handed_over(case.model, case.application.sequence, compute, stage, adapters)
    planned = forecast(case, Plan(compute, StoragePlan(), NetworkPlan(), case.hash())).counts
    assert {name: planned[name] for name in COUNTED} == {name: run.result.counts[name] for name in COUNTED}


def waits_agree(compute, run):
    """Who waited for what: other stages only where there are any, ranks of its own stage only where those exchange."""
    together = compute.tensor > 1 or compute.copies > 1
    for worker in [worker for step in run.steps for worker in step.workers]:
        assert (worker.seconds["transfer"] > 0) == together
        if compute.copies == 1:  # copies wait for each other too, before they sum gradients
            assert (worker.seconds["waiting"] > 0) == (compute.pipeline > 1)


def bubble_agrees(compute, run):
    """By the order in which the workers really did their work."""
    orders = {
        event.data["rank"]: [tuple(one) for one in event.data["actions"]] for event in read_kind(run.folder, "order")
    }
    idle = idle_share([orders[rank] for rank in sorted(orders)], compute.pipeline * compute.virtual_stages)
    fine = 1.0 / PlanNumbers.of(compute).fill_share
    assert idle == pytest.approx(bubble_share(compute.pipeline, compute.accumulation, fine))
