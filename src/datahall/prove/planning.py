"""Every way to run a case on this machine that the proof considers, priced and ranked, with why the others lost.

Cluster sites are searched by `search`; here there are few plans, and rates depend on how many processes share the
cores, so each plan is priced on its own by the same `virtual.training.forecast`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from datahall.base.errors import NoPlan
from datahall.base.result import Result
from datahall.base.units import human
from datahall.case.question import Case
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.report.data import ConsideredPlan
from datahall.storage.choice import CodecRate
from datahall.storage.plan import DEFAULT_SHARDS, StoragePlan
from datahall.virtual.calibration import Calibration
from datahall.virtual.checkpoints import picked_codec
from datahall.virtual.host_memory import KEPT_FOR_OTHERS
from datahall.virtual.input_cache import with_reading
from datahall.virtual.training import forecast

GOAL_METRIC = {"time": "total_time", "cost": "cost", "energy": "energy"}
CalibrationAt = Callable[[Case, ComputePlan], Calibration]


@dataclass(frozen=True, slots=True)
class PricedPlan:
    """A plan with its forecast; `fits` is False where its processes need more memory than there is."""

    plan: Plan
    forecast: Result
    fits: bool

    @property
    def name(self) -> str:
        """The plan in a few words."""
        compute = self.plan.compute
        workers = "1 process" if compute.data == 1 else f"{compute.data} processes"
        threads = "" if compute.threads == 1 else f" x {compute.threads} threads"
        batch = f"{compute.micro_batch}" + (f" x {compute.accumulation}" if compute.accumulation > 1 else "")
        return f"{workers}{threads}, micro-batch {batch}, {compute.precision}"


def candidates(
    case: Case, precisions: Sequence[str], network: NetworkPlan | None = None, codecs: Sequence[CodecRate] = ()
) -> list[Plan]:
    """One worker or several, threads within the cores, every micro-batch that divides the share, each precision.

    `network` is how several workers exchange gradients, `codecs` what the probe measured a core to code.
    """
    network = network or NetworkPlan()
    cores, batch = case.site.devices, case.application.global_batch
    found: list[Plan] = []
    for workers in (count for count in range(1, min(cores, 4) + 1) if batch % count == 0):
        for threads in sorted({1, cores // workers}):
            for size in (size for size in range(1, batch // workers + 1) if batch // workers % size == 0):
                for precision in precisions:
                    compute = ComputePlan(
                        data=workers,
                        threads=threads,
                        micro_batch=size,
                        accumulation=batch // workers // size,
                        precision=precision,
                    )
                    travels = network if workers > 1 else NetworkPlan()
                    interval = checkpoint_interval(case, travels.local_steps)
                    storage = storage_plan(case, compute, interval, codecs)
                    found.append(Plan(compute, storage, travels, case.hash()))
    return found


def baseline(case: Case, precision: str) -> Plan:
    """One process with its defaults: all cores as threads, the whole batch at once."""
    alone = [plan for plan in candidates(case, (precision,)) if plan.compute.data == 1]
    return max(alone, key=lambda plan: (plan.compute.threads, plan.compute.micro_batch))


def storage_plan(
    case: Case, compute: ComputePlan, interval_steps: int, codecs: Sequence[CodecRate] = ()
) -> StoragePlan:
    """As many files in all as one rank would write, and a codec where the probe's rates say that it pays."""
    shards = max(1, DEFAULT_SHARDS // compute.data)
    codec = picked_codec(case, PlanNumbers.of(compute), shards, codecs)
    return StoragePlan(interval_steps=interval_steps, shards=shards, codec=codec)


def checkpoint_interval(case: Case, period: int = 1) -> int:
    """Steps between checkpoints: this machine states no failure rate, so one in the middle, to have one to resume.

    A multiple of `period`, the steps between two meetings of workers with local updates.
    """
    return max(1, case.application.steps // 2 // period) * period


def price(case: Case, plans: Sequence[Plan], calibration_at: CalibrationAt) -> list[PricedPlan]:
    """All plans with their forecasts, the best for the case's goal first, those that do not fit last."""
    there = case.site.accelerator.memory_bytes * case.site.devices * (1 - KEPT_FOR_OTHERS)
    priced: list[PricedPlan] = []
    for plan in plans:
        calibration = calibration_at(case, plan.compute)
        result = forecast(case, plan, calibration)
        if case.application.data is not None:
            work_s = result.metrics["step_time"].value - result.metrics["input"].value
            storage = with_reading(case, plan.compute, plan.storage, work_s)
            plan = replace(plan, storage=storage)
            result = forecast(case, plan, calibration)
        needed = result.metrics["peak_memory"].value * plan.compute.data
        priced.append(PricedPlan(plan, result, needed <= there))
    metric = GOAL_METRIC[case.goal.minimise]
    return sorted(priced, key=lambda one: (not one.fits, one.forecast.metrics[metric].value))


def best(case: Case, priced: Sequence[PricedPlan]) -> PricedPlan:
    """The first plan, if it fits and meets the goal; NoPlan with what stood in the way if not."""
    fitting = [one for one in priced if one.fits]
    if not fitting:
        raise NoPlan(
            "the model fits on this machine by no plan.",
            reasons={"more memory than the machine has": len(priced)},
            hint="Make the model or the micro-batch smaller.",
        )
    least_j = min(one.forecast.metrics["energy"].value for one in fitting)
    fitting = [one for one in fitting if one.forecast.metrics["energy"].value <= case.goal.energy_j]
    if not fitting:
        raise NoPlan(
            f"the thriftiest plan draws {human(least_j, 'joules')}, the bound is "
            f"{human(case.goal.energy_j, 'joules')}.",
            reasons={"more energy than the bound": len(priced)},
            hint="Train on fewer tokens, or on another site.",
        )
    total_s = fitting[0].forecast.metrics["total_time"].value
    if total_s > case.goal.deadline_s:
        raise NoPlan(
            f"the fastest plan takes {human(total_s, 'seconds')}, the deadline is "
            f"{human(case.goal.deadline_s, 'seconds')}.",
            reasons={"later than the deadline": len(fitting)},
            hint="Train on fewer tokens, or on another site.",
        )
    return fitting[0]


def considered(priced: Sequence[PricedPlan]) -> list[ConsideredPlan]:
    """The ranked plans for tables and the report, each with why it lost: the components that cost it the most."""
    first = priced[0]
    return [
        ConsideredPlan(
            one.name,
            one.forecast.metrics["step_time"].value,
            one.forecast.metrics["peak_memory"].value,
            one.fits,
            one is first,
            "" if one is first else _why_lost(first, one),
        )
        for one in priced
    ]


def what_would_flip(priced: Sequence[PricedPlan]) -> str:
    """How much slower the chosen plan would have to be for the next kind of plan (other worker count) to win."""
    first = priced[0]
    others = [one for one in priced if one.fits and one.plan.compute.data != first.plan.compute.data]
    if not others:
        return "No other number of workers fits, so nothing here would flip the choice."
    mine, other = first.forecast.metrics["step_time"], others[0].forecast.metrics["step_time"]
    share = other.value / mine.value - 1.0
    sure = "inside the intervals, so the choice is not sure" if other.low < mine.high else "outside the intervals"
    distribute = "" if first.plan.compute.data > 1 else " Do not distribute this."
    return f"{others[0].name} is {share:.0%} slower; a forecast wrong by that much would flip it ({sure}).{distribute}"


def _why_lost(first: PricedPlan, one: PricedPlan) -> str:
    if not one.fits:
        return "does not fit in memory"
    components = ("compute", "transfer", "waiting", "optimiser", "input")
    more = {name: one.forecast.metrics[name].value - first.forecast.metrics[name].value for name in components}
    worst = max(more, key=lambda name: more[name])
    return f"{human(max(0.0, more[worst]), 'seconds')} more {worst} a step"
