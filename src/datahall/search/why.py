"""Why the chosen plan beats another, component by component, and what would flip the choice.

Differences come from the explanation of each plan alone; nothing is weighed or learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from datahall.base.errors import DatahallError
from datahall.base.label import weakest
from datahall.base.result import Result
from datahall.calibrate.ledger import LedgerCalibration
from datahall.case.question import Case
from datahall.case.site import Accelerator, Link, Site
from datahall.catalog.stacks import trains
from datahall.compute.host_memory import HostBytes
from datahall.compute.memory import MemoryBytes
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.search.price import Floors, floors_of
from datahall.search.rank import Ranking, goal_values, search
from datahall.virtual.calibration import Calibration
from datahall.virtual.host_memory import host_bytes
from datahall.virtual.step_time import StepSeconds, step_time
from datahall.virtual.training import PRICED, forecast, held_bytes, power_w
from datahall.virtual.transferred import Transferred, stack_note

_LEARNT = ("step_time", "total_time", "tokens_per_s", "mfu", "cost", "energy")
_HALVES_NOTE = "No published run has a zero-bubble schedule: what it saves is the formula's word alone."
COMPONENTS = ("compute", "transfer", "waiting", "input", "optimiser")


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a plan lost: seconds per step that each component has more (negative: less) than the chosen one's."""

    place: int
    plan: ComputePlan
    forecast: Result
    more_s: Mapping[str, float]

    @property
    def reason(self) -> str:
        """The component that cost it most."""
        return max(self.more_s, key=lambda name: self.more_s[name])


@dataclass(frozen=True, slots=True)
class Bargain:
    """A faster plan that the budget rules out, and the price per device and hour at which it would not."""

    plan: ComputePlan
    total_s: float
    price_usd_per_h: float


@dataclass(frozen=True, slots=True)
class LeftFree:
    """Devices of the site that a plan does not hold, and joules that they draw over its run if nobody takes them.

    `place` is of the plan that draws least if those joules are counted, `energy_j` what it then draws.
    """

    devices: int
    idle_j: float
    place: int
    energy_j: float


@dataclass(frozen=True, slots=True)
class Flip:
    """What changing one thing about the site or the case does: the plan that would then win, and what it brings.

    `gain` is what the goal makes small (time, cost, energy), before over after: 1.1 is a tenth better.  `unable` names
    the engine that was asked for where it runs no such plan: `plan` is then any engine's.
    """

    change: str
    plan: ComputePlan | None
    gain: float
    same_split: bool
    unable: str = ""


def explain(ranking: Ranking, place: int = 0) -> Result:
    """The forecast of the plan at a place of the ranking."""
    result = forecast(ranking.case, ranking.plan(place), ranking.calibration)
    if isinstance(ranking.calibration, Transferred) and (unknown := stack_note(ranking.case)):
        result = replace(result, notes=(unknown, *result.notes))
    if ranking.compute(place).schedule == "zero-bubble":
        result = replace(result, notes=(_HALVES_NOTE, *result.notes))
    if not isinstance(ranking.calibration, LedgerCalibration):
        return result
    label, site = ranking.calibration.label, ranking.case.site
    # Whole runs on this hardware were measured, whatever its parts rest on, but not what an hour of it costs or draws.
    labels = {name: weakest([label, site.label(PRICED[name])]) if name in PRICED else label for name in _LEARNT}
    timed = {name: replace(result.metrics[name], label=labels[name]) for name in _LEARNT if name in result.metrics}
    learnt = ranking.calibration.learnt
    note = f"Corrected by {learnt.factor:.3f} after {learnt.count} compared run(s) on this hardware ({label})."
    notes = (*result.notes, f"{note} {learnt.remark}".rstrip())
    return replace(result, metrics={**result.metrics, **timed}, notes=notes)


def step_items(case: Case, compute: ComputePlan, calibration: Calibration) -> StepSeconds:
    """Seconds of a step, item by item."""
    return step_time(calibration.inputs(case, compute), PlanNumbers.of(compute))


def memory_items(case: Case, compute: ComputePlan, calibration: Calibration) -> MemoryBytes:
    """Bytes on the fullest device, item by item."""
    inputs = calibration.inputs(case, compute)
    return held_bytes(inputs, PlanNumbers.of(compute))


def host_items(ranking: Ranking, forecast: Result) -> HostBytes:
    """Bytes of the fullest host under the chosen plan, item by item; `forecast` is that plan's."""
    numbers, peak = PlanNumbers.of(ranking.compute(0)), forecast.metrics["peak_memory"]
    return host_bytes(ranking.case, ranking.plan().storage, numbers, training_bytes=peak.value)


def losses(ranking: Ranking, most: int) -> list[Loss]:
    """The chosen plan first (all differences zero), then the best of each other way to cut."""
    places = sorted({0, *ranking.families(most)})[:most]
    base = step_items(ranking.case, ranking.compute(0), ranking.calibration)
    found: list[Loss] = []
    for place in places:
        compute = ranking.compute(place)
        items = step_items(ranking.case, compute, ranking.calibration)
        more = {name: float(getattr(items, name)) - float(getattr(base, name)) for name in COMPONENTS}
        found.append(Loss(place, compute, explain(ranking, place), more))
    return found


def flips(ranking: Ranking) -> list[Flip]:
    """What a faster network, more memory or fp8 would change."""
    case, best = ranking.case, ranking.compute(0)
    site, card = case.site, case.site.accelerator
    changes: list[tuple[str, Case]] = []
    if site.nodes > 1:
        changes.append(
            ("a network between nodes twice as fast", _on(case, replace(site, scale_out=_faster(site.scale_out))))
        )
    if site.devices > 1 and site.scale_up_domain > 1:
        changes.append(("links inside a node twice as fast", _on(case, replace(site, scale_up=_faster(site.scale_up)))))
    changes.append(("twice the memory on each device", _on(case, _with_memory(site, card, 2.0))))
    narrower = card.peak_flops_per_s.get("fp8") and trains("fp8", site.stack, card.kind)
    if narrower and best.precision in ("bf16", "fp16"):
        changes.append(("fp8 products", replace(case, application=replace(case.application, precision="fp8"))))
    fastest = replace(site, scale_out=_faster(site.scale_out), scale_up=_faster(site.scale_up))
    plans = ranking.space.in_precision(best.precision)
    shared = floors_of(_on(case, fastest), plans, ranking.calibration)
    return [
        _flip(ranking, what, changed, shared if changed.application == case.application else None)
        for what, changed in changes
    ]


def bargain(ranking: Ranking) -> Bargain | None:
    """The fastest plan if only the budget stands against it, with the price that would let it in."""
    case = ranking.case
    if case.goal.minimise != "time" or case.goal.budget_usd == float("inf"):
        return None
    free = replace(case, goal=replace(case.goal, budget_usd=float("inf")))
    found = search(free, ranking.calibration, engine=ranking.engine, plans=ranking.space, only_best=True)
    fastest = int(np.argmin(found.prices.total_s))
    cost = float(found.prices.cost_usd[fastest])
    if cost <= case.goal.budget_usd:
        return None
    price = case.site.accelerator.price_usd_per_h * case.goal.budget_usd / cost
    plan = ranking.space.plan(int(found.prices.cells[fastest]))
    return Bargain(plan, float(found.prices.total_s[fastest]), price)


def left_free(ranking: Ranking) -> LeftFree | None:
    """What the chosen plan leaves to others, of which neither its dollars nor its joules count anything."""
    site, order, prices = ranking.case.site, ranking.order, ranking.prices
    free = np.maximum(0.0, site.devices - prices.devices[order])
    if not free[0]:
        return None
    idle_j = power_w(site, 0.0) * free * prices.total_s[order]
    whole_j = prices.energy_j[order] + idle_j
    place = int(np.argmin(whole_j))
    return LeftFree(int(free[0]), float(idle_j[0]), place, float(whole_j[place]))


def _flip(ranking: Ranking, what: str, changed: Case, floors: Floors | None) -> Flip:
    best = ranking.compute(0)
    for engine in dict.fromkeys((ranking.engine, "")):  # what one engine cannot say may fit all the same
        try:
            other = search(
                changed, ranking.calibration, engine=engine, plans=ranking.space, only_best=True, floors=floors
            )
        except DatahallError:
            continue
        plan = other.compute(0)
        same = replace(plan, precision=best.precision) == best
        unable = "" if engine == ranking.engine else ranking.engine
        return Flip(what, plan, _goal_value(ranking) / _goal_value(other), same, unable)
    return Flip(what, None, 0.0, False)


def _goal_value(ranking: Ranking) -> float:
    return float(goal_values(ranking.case, ranking.prices)[ranking.order[0]])


def _on(case: Case, site: Site) -> Case:
    return replace(case, site=site)


def _faster(link: Link) -> Link:
    return replace(link, bytes_per_s=2 * link.bytes_per_s)


def _with_memory(site: Site, card: Accelerator, factor: float) -> Site:
    return replace(site, accelerator=replace(card, memory_bytes=factor * card.memory_bytes))
