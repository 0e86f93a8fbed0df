"""The exact counts of a run: samples, FLOPs, what is handed over, checkpoints.  Seconds are `training`'s."""

from __future__ import annotations

from datahall.base.step_table import Component
from datahall.case.question import Case
from datahall.compute.adapters import adapters_of
from datahall.compute.anatomy import Anatomy
from datahall.compute.step import step_table
from datahall.decisions.plan import Plan
from datahall.virtual.checkpoints import checkpoint_bytes
from datahall.virtual.gradient_plan import exchanged, optimisers, special


def run_counts(case: Case, plan: Plan, own: Anatomy | None = None) -> dict[str, int]:
    """What the observer of a real run will count; `own` is the anatomy of a model that the case brings with it."""
    return _shape_counts(case, plan) if own is None else _own_counts(case, plan, own)


def _shape_counts(case: Case, plan: Plan) -> dict[str, int]:
    steps = case.application.steps
    adapters = adapters_of(case.application)
    table = step_table(case.model, case.application.sequence, plan.compute, adapters=adapters)
    core = sum(row.flops for row in table.rows if row.name.startswith("attention core"))
    handed = sum(row.messages for row in table.rows) * steps, steps * table.total_bytes(Component.TRANSFER)
    if special(plan):
        handed = exchanged(case, plan).counts(steps)
    flops = steps * (table.total_flops() - core), steps * core
    return _all_counts(case, plan, flops, handed, checkpoint_bytes(case, None, optimisers(plan)))


def _own_counts(case: Case, plan: Plan, own: Anatomy) -> dict[str, int]:
    """Those of the worker that speaks for the run, on the last stage."""
    steps, compute = case.application.steps, plan.compute
    found = own.handed_over(compute, compute.pipeline - 1).values()
    handed = steps * sum(calls for calls, _ in found), steps * sum(size for _, size in found)
    if special(plan):
        handed = exchanged(case, plan, own).counts(steps)
    times = steps * compute.accumulation
    flops = times * own.matmul_flops, times * own.attention_flops
    return _all_counts(case, plan, flops, handed, checkpoint_bytes(case, own, optimisers(plan)))


def _all_counts(
    case: Case, plan: Plan, flops: tuple[int, int], handed: tuple[int, int], checkpoint: int
) -> dict[str, int]:
    """`flops` of products and of the attention core, calls and bytes `handed` over, bytes of one `checkpoint`."""
    steps = case.application.steps
    samples = steps * plan.compute.global_batch
    checkpoints = steps // plan.storage.interval_steps if plan.storage.interval_steps else 0
    return {
        "samples": samples,
        "tokens": samples * case.application.sequence,
        "steps": steps,
        "matmul_flops": flops[0],
        "attention_flops": flops[1],
        "collective_bytes": handed[1],
        "collective_calls": handed[0],
        "checkpoint_bytes": checkpoints * checkpoint,
        "checkpoints": checkpoints,
    }
