"""What many plans of one case take: step, memory, run, dollars and joules, by the functions that explain one plan.

Arrays in slices small enough for the cache.  A test holds each element equal to `virtual.training.forecast`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.case.question import Case
from datahall.compute.counts import ShapeCounts
from datahall.compute.memory import memory
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.search.space import Space
from datahall.storage.plan import StoragePlan
from datahall.virtual import training
from datahall.virtual.calibration import Calibration
from datahall.virtual.checkpoints import CheckpointSeconds, checkpoint_seconds, picked_codec, shards_of
from datahall.virtual.failures import background_interval_s
from datahall.virtual.input_cache import with_reading
from datahall.virtual.step_time import StepInputs, step_time

Numbers = NDArray[np.float64]
_SLICE = 16384
_UNSTATED_INTERVAL_S = 3600.0  # between checkpoints where nobody stated how often devices fail


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of the plans of a space, one element a plan; NaN where a plan was not priced (it does not fit)."""

    memory_bytes: Numbers
    step_s: Numbers
    total_s: Numbers
    cost_usd: Numbers
    energy_j: Numbers


def price(case: Case, plans: Space, calibration: Calibration, *, only_fitting: bool = True) -> Prices:
    """The prices of all `plans`; with `only_fitting`, time is worked out only where memory suffices."""
    inputs = calibration.inputs(case, ComputePlan(precision=plans.precision))
    counts = float_counts(case)
    columns = [np.full(len(plans), np.nan) for _ in range(5)]
    held, step, total, cost, energy = columns
    room = case.site.accelerator.memory_bytes
    for start in range(0, len(plans), _SLICE):
        part = slice(start, min(start + _SLICE, len(plans)))
        held[part] = memory_bytes(case, counts, plans.part(part), inputs)
        chosen = part.start + np.flatnonzero(held[part] <= room) if only_fitting else part
        numbers = plans.part(chosen)
        if len(numbers.data):
            run = _run(case, numbers, inputs)
            step[chosen], total[chosen], cost[chosen], energy[chosen] = run
    return Prices(held, step, total, cost, energy)


def memory_bytes(case: Case, counts: ShapeCounts, numbers: PlanNumbers, inputs: StepInputs) -> Any:
    """Bytes on the fullest device."""
    share, adapters, sequence = inputs.trainable_share, inputs.adapters, case.application.sequence
    return memory(counts, sequence, numbers, inputs.memory, trainable_share=share, adapters=adapters).total


def whole_plan(case: Case, compute: ComputePlan, step_s: float) -> Plan:
    """The plan around a compute plan: checkpoints in the background, as often as failures make worth while."""
    numbers = PlanNumbers.of(compute)
    interval = int(_interval_steps(case, numbers, step_s))
    shards = shards_of(compute.devices)
    codec = picked_codec(case, numbers, shards)
    storage = StoragePlan(interval_steps=interval, shards=shards, codec=codec, asynchronous=True)
    storage = with_reading(case, compute, storage, step_s)
    return Plan(compute, storage, NetworkPlan(), case.hash())


def float_counts(case: Case) -> ShapeCounts:
    """The model's counts as floats: integers beyond 2^63 would make arrays of objects."""
    counts = ShapeCounts.of(case.model)
    return ShapeCounts(**{name: float(getattr(counts, name)) for name in ShapeCounts.__dataclass_fields__})


def _run(case: Case, numbers: PlanNumbers, inputs: StepInputs) -> tuple[Any, Any, Any, Any]:
    """Step seconds, run seconds, dollars and joules, as `training.forecast` has them."""
    seconds = step_time(inputs, numbers)
    step, devices, site = seconds.total, numbers.devices, case.site
    interval = _interval_steps(case, numbers, step) * step
    saved_s = _saved(case, numbers, step - seconds.optimiser).cost
    failures = site.failures_per_device_s * devices
    work = case.application.steps * step
    total = training.run_parts(work, interval, saved_s, failures, inputs.habits.startup_s).total
    cost = site.accelerator.price_usd_per_h / 3600.0 * devices * total
    return step, total, cost, training.power_w(site, seconds.compute / step) * devices * total


def _saved(case: Case, numbers: PlanNumbers, hidden_s: Any) -> CheckpointSeconds:
    return checkpoint_seconds(case, StoragePlan(asynchronous=True), numbers, hidden_s=hidden_s)


def _interval_steps(case: Case, numbers: PlanNumbers, step_s: Any) -> Any:
    rate = case.site.failures_per_device_s * numbers.devices
    if case.site.failures_per_device_s > 0:
        saved = _saved(case, numbers, step_s)
        best = background_interval_s(saved.cost, saved.write, 1.0 / rate)
    else:
        best = _UNSTATED_INTERVAL_S + 0.0 * numbers.devices
    return np.maximum(1.0, np.rint(best / step_s))
