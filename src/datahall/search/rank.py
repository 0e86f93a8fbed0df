"""Plans in the order of a goal, the front that no other plan beats, and what stood in the way of the rest.

A ranking with no plan is a `NoPlan` with counts.  Why one plan beats another is `why`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import Incompatible, NoPlan, UsageError
from datahall.base.units import human, human_time
from datahall.case.question import Case
from datahall.catalog.compatibility import UNASKED, check_trained, framework_of
from datahall.compute.plan import ComputePlan
from datahall.decisions.choice import SAME_SHARE, preferred
from datahall.decisions.plan import Plan
from datahall.search.engines import runnable
from datahall.search.price import Prices, price, whole_plan
from datahall.search.space import Space, divisors, space
from datahall.storage.plan import StoragePlan
from datahall.virtual.calibration import Calibration
from datahall.virtual.checkpoints import on_one_disk
from datahall.virtual.training import RESTART_S
from datahall.virtual.transferred import default_calibration

GOALS = ("time", "cost", "energy")
_SMALL_SITE = 64
_FROZEN_BYTES = 2  # of a parameter beside adapters
_ENDLESS = 100.0  # a run that takes so many times its steps is not one that ends
_FAILING = f"fails so often that less than 1/{_ENDLESS:.0f} of its time would be steps"
_KEEP = StoragePlan().keep  # committed checkpoints, of what `whole_plan` writes


@dataclass(frozen=True, slots=True)
class Ranking:
    """All plans of a case: `order` lists those that meet the goal, best first; `reasons` counts the others."""

    case: Case
    space: Space
    prices: Prices
    order: NDArray[np.int64]
    reasons: Mapping[str, int]
    calibration: Calibration
    engine: str = ""

    def compute(self, place: int) -> ComputePlan:
        """The compute plan at a place of the order (0: the best)."""
        return self.space.plan(int(self.order[place]))

    def plan(self, place: int = 0) -> Plan:
        """The whole plan at a place of the order."""
        index = int(self.order[place])
        return whole_plan(self.case, self.space.plan(index), float(self.prices.step_s[index]))

    def narrow(self, place: int) -> bool:
        """Whether the memory of the plan at a place fits by its forecast, but not by the end of its interval."""
        return bool(_narrow(self.case, self.calibration, self.prices.memory_bytes[self.order[place]]))

    def roomy(self) -> int | None:
        """The first place whose memory fits by the end of its interval too; None if there is none."""
        fits = ~_narrow(self.case, self.calibration, self.prices.memory_bytes[self.order])
        return int(np.argmax(fits)) if fits.any() else None

    def families(self, most: int) -> list[int]:
        """Places of the best plan of each way to cut (degrees and ZeRO stage), best first, at most `most`."""
        numbers, seen, places = self.space.numbers, set[tuple[float, ...]](), list[int]()
        for place, index in enumerate(self.order):
            key = tuple(float(getattr(numbers, name)[index]) for name in _FAMILY)
            if key not in seen:
                seen.add(key)
                places.append(place)
                if len(places) == most:
                    break
        return places

    def front(self, most: int = 8) -> list[int]:
        """Places of the plans that no other beats in time, cost and memory at once, fastest first."""
        return _front(self, most)


_FAMILY = ("data", "tensor", "pipeline", "context", "expert", "zero_stage")


def search(
    case: Case,
    calibration: Calibration | None = None,
    *,
    devices: Sequence[int] | None = None,
    engine: str = "",
    wide: bool = False,
    plans: Space | None = None,
) -> Ranking:
    """Every plan of `case`, ranked by its goal; only those that `engine` can run, where one is named.

    `plans` takes those of an earlier search of the same model, batch and devices, in place of working them out again.

    Raises NoPlan with the obstacles and how many plans each stopped, Incompatible where the accelerator cannot compute
    in the case's precision or has no price or power for a goal that asks for it.
    """
    calibration = calibration or default_calibration(case)
    _check_goal(case)
    precision = precision_of(case)
    plans = plans or space(case, precision, devices or device_counts(case), wide=wide)
    plans = plans.in_precision(precision)
    prices = price(case, plans, calibration)
    met, reasons = _met(case, plans, prices)
    if engine:
        able = runnable(engine, case, plans)
        reasons[f"{engine} cannot run it"] = int((met & ~able).sum())
        met, reasons = met & able, +reasons
    reasons = reasons + Counter({reason: count for reason, count in plans.impossible.items() if not len(plans)})
    if not met.any():
        raise _no_plan(case, prices, reasons)
    return Ranking(case, plans, prices, _ordered(case, plans, prices, met, calibration), reasons, calibration, engine)


def precision_of(case: Case) -> str:
    """The precision that is asked for, or the first of bf16, fp16 and fp32 that the accelerator has.

    Narrower ones change what is learnt, so they are only taken when the case says so.
    """
    accelerator = case.site.accelerator
    peaks = {name for name, peak in accelerator.peak_flops_per_s.items() if peak}
    if wanted := case.application.precision:
        if wanted not in peaks:
            raise Incompatible(
                f"{accelerator.name} does not compute in {wanted}.",
                where="application.precision",
                hint=f"It has {', '.join(sorted(peaks))}.",
            )
        check_trained(wanted, framework_of(case.site.stack, accelerator.kind))
        return wanted
    for name in UNASKED:
        if name in peaks:
            return name
    raise Incompatible(f"{accelerator.name} states no rate for bf16, fp16 or fp32.", where="site.accelerator")


def device_counts(case: Case) -> list[int]:
    """Numbers of devices to try: all that divide a small site; of a large one all, half, a quarter, an eighth."""
    devices = case.site.devices
    if devices <= _SMALL_SITE:
        return divisors(devices)
    if case.goal.minimise == "time":
        return [devices]
    return [devices // part for part in (8, 4, 2, 1) if devices % part == 0]


def goal_values(case: Case, prices: Prices) -> NDArray[np.float64]:
    """What the goal makes small."""
    return {"time": prices.total_s, "cost": prices.cost_usd, "energy": prices.energy_j}[case.goal.minimise]


def _check_goal(case: Case) -> None:
    """An unknown price is not zero dollars, nor an unknown power zero joules: such a goal has no answer."""
    goal, card = case.goal, case.site.accelerator
    if goal.minimise not in GOALS:
        raise UsageError(f"a goal cannot minimise {goal.minimise!r}.", hint=f"Use {', '.join(GOALS)}.")
    if (goal.minimise == "cost" or goal.budget_usd < float("inf")) and not card.price_usd_per_h:
        raise Incompatible(
            f"the goal asks for dollars, and nobody stated a price for {card.name}.",
            where="goal",
            hint='Say --set "site.price_per_device_hour=2 USD".',
        )
    if goal.minimise == "energy" and not card.power_w:
        raise Incompatible(
            f"the goal asks for joules, and nobody stated the power of {card.name}.",
            where="goal",
            hint="Write `power: 300 W` for the accelerator.",
        )


def _met(case: Case, plans: Space, prices: Prices) -> tuple[NDArray[np.bool_], Counter[str]]:
    goal = case.goal
    fits = np.isfinite(prices.step_s)
    keeps = on_one_disk(case, plans.numbers.devices, _KEEP) <= case.site.disk.capacity_bytes
    ends = _ends(case, prices)
    in_time = prices.total_s <= goal.deadline_s
    in_budget = prices.cost_usd <= goal.budget_usd
    memory = human(case.site.accelerator.memory_bytes, "bytes")
    reasons = Counter(
        {
            f"needs more than the {memory} of one {case.site.accelerator.name}": int((~fits).sum()),
            _full(case): int((fits & ~keeps).sum()),
            _FAILING: int((fits & keeps & ~ends).sum()),
            f"takes longer than {human_time(goal.deadline_s)}": int((fits & keeps & ends & ~in_time).sum()),
            f"costs more than {human(goal.budget_usd, 'usd')}": int((fits & keeps & ends & in_time & ~in_budget).sum()),
        }
    )
    return fits & keeps & ends & in_time & in_budget, +reasons


def _ends(case: Case, prices: Prices) -> NDArray[np.bool_]:
    """Whether failures leave a run the time to get on."""
    return prices.total_s <= _ENDLESS * (case.application.steps * prices.step_s + RESTART_S)


def _full(case: Case) -> str:
    capacity = human(case.site.disk.capacity_bytes, "bytes")
    return f"keeps {_KEEP} checkpoints and writes one more, which a disk of {capacity} does not hold"


def _ordered(
    case: Case, plans: Space, prices: Prices, met: NDArray[np.bool_], calibration: Calibration
) -> NDArray[np.int64]:
    """By the goal in steps of what the forecast can tell apart, then what surely fits, is sooner done, is simpler."""
    chosen = np.flatnonzero(met)
    narrow = _narrow(case, calibration, prices.memory_bytes[chosen])
    return chosen[preferred(goal_values(case, prices)[chosen], plans.part(chosen), narrow, prices.total_s[chosen])]


def _narrow(case: Case, calibration: Calibration, memory_bytes: Any) -> Any:
    return memory_bytes * calibration.spread("peak_memory")[1] > case.site.accelerator.memory_bytes


def _front(ranking: Ranking, most: int) -> list[int]:
    order, prices = ranking.order, ranking.prices
    values = np.stack([prices.total_s[order], prices.cost_usd[order], prices.memory_bytes[order]], axis=1)
    front: list[int] = []
    best_cost = best_memory = np.inf
    by_time = np.lexsort((values[:, 2], values[:, 1], values[:, 0]))
    least = np.minimum.accumulate(values[by_time, 1:])  # of the plans so far; others cannot earn a place
    improves = np.any(values[by_time[1:], 1:] < least[:-1], axis=1)
    for place in by_time[np.r_[True, improves]]:
        _, cost, memory = values[place]
        # A plan earns its place by being clearly cheaper or clearly smaller than every faster one.
        if cost < best_cost * (1 - SAME_SHARE) or memory < best_memory * 0.9:
            front.append(int(place))
            best_cost, best_memory = min(best_cost, cost), min(best_memory, memory)
            if len(front) == most:
                break
    return front


def _no_plan(case: Case, prices: Prices, reasons: Counter[str]) -> NoPlan:
    held = prices.memory_bytes
    if not len(held):
        what = f"{case.model.name} cannot be cut over {case.site.devices} devices with these batches."
        return NoPlan(what, reasons=dict(reasons), hint="Choose another application.global_batch.")
    if not np.isfinite(prices.step_s).any():
        least = human(float(np.nanmin(held)), "bytes")
        what = (
            f"{case.model.name} does not fit on {case.site.name}: the smallest of {len(held):,} plans needs {least} on"
            f" a device with {human(case.site.accelerator.memory_bytes, 'bytes')}."
        )
        frozen = _FROZEN_BYTES * case.model.parameters() < case.site.devices * case.site.accelerator.memory_bytes
        adapters = ", or fine-tune with LoRA" if frozen and case.application.method == "full" else ""
        hint = f"Ask `datahall plan --ask site` how many nodes hold it{adapters}."
        return NoPlan(what, reasons=dict(reasons), hint=hint)
    if any(reason.endswith("cannot run it") for reason in reasons):
        return NoPlan(
            "no plan that meets the goal can be run by this engine.", reasons=dict(reasons), hint="Leave --for out."
        )
    if reasons.get(_full(case), 0) == np.isfinite(prices.step_s).sum():
        what = f"{_KEEP + 1} checkpoints of {case.model.name} do not fit on the disks of {case.site.name}."
        return NoPlan(what, reasons=dict(reasons), hint="State a disk with a larger capacity, or a shared one.")
    if not np.any(np.isfinite(prices.step_s) & _ends(case, prices)):
        what = f"no run on {case.site.name} would end: devices fail before they get anywhere."
        return NoPlan(what, reasons=dict(reasons), hint="Check site.mtbf_per_device.")
    best = human_time(float(np.nanmin(prices.total_s)))
    cheapest = human(float(np.nanmin(prices.cost_usd)), "usd")
    what = f"no plan meets the goal: the fastest takes {best}, the cheapest costs {cheapest}."
    question = "site" if case.goal.budget_usd == float("inf") else "hardware"  # more nodes do not make a run cheaper
    return NoPlan(what, reasons=dict(reasons), hint=f"Ask `datahall plan --ask {question}` what would meet it.")
