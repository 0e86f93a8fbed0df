"""What many plans of one case take: step, memory, run, dollars and joules, by the functions that explain one plan.

Grid by grid: what does not follow from an axis has one element along it.  A test holds each element equal to
`virtual.training.forecast`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.case.question import Case
from datahall.compute.counts import ShapeCounts
from datahall.compute.memory import memory
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.decisions.choice import RISK_SHARE, SAME_SHARE
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.search.saves import Saves
from datahall.search.space import Grid, Space
from datahall.virtual import training
from datahall.virtual.calibration import Calibration
from datahall.virtual.input_cache import with_reading
from datahall.virtual.step_time import StepInputs, step_time

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of plans, one element a plan; `cells` name them in their space, `families` those that are cut alike."""

    cells: NDArray[np.int64]
    families: NDArray[np.int64]
    devices: Numbers
    memory_bytes: Numbers
    step_s: Numbers
    total_s: Numbers
    cost_usd: Numbers
    energy_j: Numbers

    def __len__(self) -> int:
        return len(self.cells)

    def chosen(self, which: NDArray[Any]) -> Prices:
        """Some of them, by a mask or by their places."""
        return Prices(*(getattr(self, field.name)[which] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Iterable[Prices]) -> Prices:
        """Several, at least one, one behind the other."""
        found = [*parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in found]) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class Priced:
    """One grid: prices of what was priced of its `plans`, and the least memory that one of them needs."""

    grid: Grid
    plans: int
    least_bytes: float
    prices: Prices
    copied: NDArray[np.bool_]  # of what was priced: whether hosts hold the copies of a save beside training
    first: int  # cell of the grid

    def of(self, mask: Any) -> NDArray[np.bool_]:
        """A mask over the grid's plans, for those that were priced."""
        return np.broadcast_to(mask, self.grid.exists.shape).ravel()[self.prices.cells - self.first]


def price(case: Case, plans: Space, calibration: Calibration, *, only_fitting: bool = True) -> Prices:
    """The prices of all `plans`; with `only_fitting`, of those whose memory suffices."""
    return Prices.joined(one.prices for one in priced(case, plans, calibration, only_fitting=only_fitting))


def priced(case: Case, plans: Space, calibration: Calibration, *, only_fitting: bool = True) -> Iterator[Priced]:
    """The grids of `plans` with their prices, as `price` has them, one after the other."""
    inputs = calibration.inputs(case, ComputePlan(precision=plans.precision))
    saves, room = Saves(case), case.site.accelerator.memory_bytes if only_fitting else np.inf
    for first, grid in zip(plans.starts, plans.grids, strict=False):
        yield _priced_grid(case, grid, int(first), inputs, saves, room)


@dataclass(slots=True)
class Best:
    """What the goal makes small, of the best plan so far; whoever looks at what was priced lowers it."""

    worth: float = float("inf")


Floors = Sequence[NDArray[np.float64]]


def floors_of(case: Case, plans: Space, calibration: Calibration) -> Floors:
    """What the goal makes small, of the plans of each grid, at least; of cases with slower links or less memory too.

    Empty for workers that share a processor's cores: they are few.
    """
    inputs = calibration.inputs(case, ComputePlan(precision=plans.precision))
    return [] if np.isfinite(inputs.cores) else [_floor(case, grid.numbers, inputs) for grid in plans.grids]


def nearest(
    case: Case, plans: Space, calibration: Calibration, best: Best, floors: Floors | None = None
) -> Iterator[Priced]:
    """As `priced`, without plans that lose by more than the forecast can tell apart, whatever their transfers take.

    `floors` are those of the case, or of one with faster links.
    """
    inputs = calibration.inputs(case, ComputePlan(precision=plans.precision))
    floors = floors_of(case, plans, calibration) if floors is None else floors
    if not floors:
        yield from priced(case, plans, calibration)
        return
    least, saves = np.array([floor.min() for floor in floors]), Saves(case)
    for index in np.argsort(least, kind="stable"):
        bound = best.worth * (1.0 + RISK_SHARE) * (1.0 + SAME_SHARE) ** 2
        if least[index] > bound:
            return
        grid = plans.grids[index]
        hopeful = replace(grid, exists=grid.exists & (floors[index] <= bound))
        yield _priced_grid(case, hopeful, int(plans.starts[index]), inputs, saves, case.site.accelerator.memory_bytes)


def _floor(case: Case, plan: PlanNumbers, inputs: StepInputs) -> Any:
    """What the goal makes small, at least: with states that all ranks share at no cost, and without failures."""
    habits = replace(inputs.habits, gather_passes=0.0, scatter_passes=0.0)
    plan = replace(plan, zero_stage=3.0, shard_group=0.0)
    seconds = step_time(replace(inputs, habits=habits), plan)
    step, site = seconds.total, case.site
    run = case.application.steps * step
    if case.goal.minimise == "time":
        return run
    if case.goal.minimise == "cost":
        return site.accelerator.price_usd_per_h / 3600.0 * plan.devices * run
    return training.power_w(site, seconds.compute / step) * plan.devices * run


def _priced_grid(case: Case, grid: Grid, first: int, inputs: StepInputs, saves: Saves, room: float) -> Priced:
    numbers, exists = _trimmed(grid.numbers, grid.exists)
    held = np.broadcast_to(memory_bytes(case, float_counts(case), numbers, inputs), exists.shape)
    fits = held[exists] <= room
    chosen = np.zeros_like(exists)
    chosen[exists] = fits
    cells = first + np.flatnonzero(grid.exists)[fits]
    families = np.broadcast_to(grid.family, grid.exists.shape)[grid.exists][fits]
    needed = held[exists]
    least = float(needed.min(initial=np.inf))
    numbers, chosen = _trimmed(numbers, chosen)
    copied, *runs = (saves.beside(numbers), *_run(case, numbers, inputs, saves)) if len(cells) else (np.ones(1),) * 5
    devices, copied, *runs = (np.broadcast_to(each, chosen.shape)[chosen] for each in (numbers.devices, copied, *runs))
    prices = Prices(cells, families, devices, needed[fits], *runs)
    return Priced(grid, len(fits), least, prices, copied.astype(bool), first)


def _trimmed(numbers: PlanNumbers, chosen: NDArray[np.bool_]) -> tuple[PlanNumbers, NDArray[np.bool_]]:
    """The smallest grid around what is chosen of one, and what is chosen of that."""
    for axis in range(chosen.ndim):
        others = tuple(other for other in range(chosen.ndim) if other != axis)
        used = chosen.any(axis=others)
        if used.all() or not used.any():
            continue
        chosen = np.compress(used, chosen, axis=axis)
        numbers = _by_array(numbers, lambda array, used=used, axis=axis: np.compress(used, array, axis=axis), axis)
    return numbers, chosen


def _by_array(numbers: PlanNumbers, change: Callable[[Any], Any], axis: int) -> PlanNumbers:
    """The numbers with those that differ along an axis changed."""
    differ = {field.name: getattr(numbers, field.name) for field in fields(numbers)}
    differ = {name: value for name, value in differ.items() if np.ndim(value) and np.shape(value)[axis] > 1}
    return replace(numbers, **{name: change(value) for name, value in differ.items()})


def memory_bytes(case: Case, counts: ShapeCounts, numbers: PlanNumbers, inputs: StepInputs) -> Any:
    """Bytes on the fullest device."""
    share, adapters, sequence = inputs.trainable_share, inputs.adapters, case.application.sequence
    return memory(counts, sequence, numbers, inputs.memory, trainable_share=share, adapters=adapters).total


def whole_plan(case: Case, compute: ComputePlan, step_s: float) -> Plan:
    """The plan around a compute plan: checkpoints as often as failures make worth while.

    They are written in the background, unless the hosts may not hold the copies that this takes.
    """
    storage = Saves(case).storage(PlanNumbers.of(compute), step_s)
    storage = with_reading(case, compute, storage, step_s)
    return Plan(compute, storage, NetworkPlan(), case.hash())


def float_counts(case: Case) -> ShapeCounts:
    """The model's counts as floats: integers beyond 2^63 would make arrays of objects."""
    counts = ShapeCounts.of(case.model)
    return ShapeCounts(**{name: float(getattr(counts, name)) for name in ShapeCounts.__dataclass_fields__})


def _run(case: Case, numbers: PlanNumbers, inputs: StepInputs, saves: Saves) -> tuple[Any, Any, Any, Any]:
    """Step seconds, run seconds, dollars and joules, as `training.forecast` has them."""
    seconds = step_time(inputs, numbers)
    step, devices, site = seconds.total, numbers.devices, case.site
    interval = saves.interval_steps(numbers, step) * step
    saved_s = saves.seconds(numbers, step - seconds.optimiser).cost
    failures = site.failures_per_device_s * devices
    work = case.application.steps * step
    total = training.run_parts(work, interval, saved_s, failures, inputs.habits.startup_s).total
    cost = site.accelerator.price_usd_per_h / 3600.0 * devices * total
    return step, total, cost, training.power_w(site, seconds.compute / step) * devices * total
