"""Plans in the order of a goal, the front that no other plan beats, and what stood in the way of the rest.

A ranking with no plan is a `NoPlan` with counts.  Why one plan beats another is `why`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import Incompatible, NoPlan, UsageError
from datahall.base.units import human, human_time
from datahall.case.question import Case
from datahall.catalog import stacks
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.decisions.choice import SAME_SHARE, preferred
from datahall.decisions.plan import Plan
from datahall.search.engines import engine_named, exportable, runnable
from datahall.search.price import Best, Floors, Priced, Prices, nearest, priced, whole_plan
from datahall.search.shortlist import Shortlist, unbeaten
from datahall.search.space import Space, divisors, space
from datahall.storage.plan import StoragePlan
from datahall.virtual.calibration import Calibration
from datahall.virtual.checkpoints import on_one_disk
from datahall.virtual.host_memory import holds_saves, weights_remark
from datahall.virtual.training import RESTART_S
from datahall.virtual.transferred import default_calibration

GOALS = ("time", "cost", "energy")
_SMALL_SITE = 64
_SHORTEST = 512  # tokens of a sequence that is advised
_FROZEN_BYTES = 2  # of a parameter beside adapters
_ENDLESS = 100.0  # a run that takes so many times its steps is not one that ends
_UNRUN = "no engine that plans are exported to can run it (`site.stack` names another)"
_FAILING = f"fails so often that less than 1/{_ENDLESS:.0f} of its time would be steps"
_KEEP = StoragePlan().keep  # committed checkpoints, of what `whole_plan` writes


@dataclass(frozen=True, slots=True)
class Ranking:
    """All plans of a case: `order` lists places in `prices` of those that meet the goal, best first.

    `qualified` counts them all; of very many, `prices` has only those that can be named (`shortlist`).  `reasons`
    counts the others.
    """

    case: Case
    space: Space
    prices: Prices
    order: NDArray[np.int64]
    qualified: int
    reasons: Mapping[str, int]
    calibration: Calibration
    engine: str = ""

    def compute(self, place: int) -> ComputePlan:
        """The compute plan at a place of the order (0: the best)."""
        return self.space.plan(int(self.prices.cells[self.order[place]]))

    def plan(self, place: int = 0) -> Plan:
        """The whole plan at a place of the order."""
        return whole_plan(self.case, self.compute(place), float(self.prices.step_s[self.order[place]]))

    def numbers(self) -> PlanNumbers:
        """The plans as columns, in order."""
        return self.space.part(self.prices.cells[self.order])

    def narrow(self, place: int) -> bool:
        """Whether the memory of the plan at a place fits by its forecast, but not by the end of its interval."""
        return bool(_narrow(self.case, self.calibration, self.prices.memory_bytes[self.order[place]]))

    def roomy(self) -> int | None:
        """The first place whose memory fits by the end of its interval too; None if there is none."""
        fits = ~_narrow(self.case, self.calibration, self.prices.memory_bytes[self.order])
        return int(np.argmax(fits)) if fits.any() else None

    def families(self, most: int) -> list[int]:
        """Places of the best plan of each way to cut (degrees and ZeRO stage), best first, at most `most`."""
        _, places = np.unique(self.prices.families[self.order], return_index=True)
        return [int(place) for place in np.sort(places)[:most]]

    def front(self, most: int = 8) -> list[int]:
        """Places of the plans that no other beats in time, cost and memory at once, fastest first."""
        return _front(self, most)


def search(
    case: Case,
    calibration: Calibration | None = None,
    *,
    devices: Sequence[int] | None = None,
    engine: str = "",
    plans: Space | None = None,
    only_best: bool = False,
    floors: Floors | None = None,
    advise: bool = False,
) -> Ranking:
    """Every plan of `case`, ranked by its goal; only those that `engine` can run, or, where none is named, any engine.

    `plans` takes those of an earlier search of the same model, batch and devices, in place of working them out again.
    With `only_best` the choice is the same, and plans that cannot be it are not looked at; `floors` of `plans` on links
    at least as fast tell which, where they are known.  With `advise` a refusal for want of memory names a shorter
    sequence that fits, which takes some more searches.

    Raises NoPlan with the obstacles and how many plans each stopped, Incompatible where the accelerator cannot compute
    in the case's precision or has no price or power for a goal that asks for it.
    """
    calibration = calibration or default_calibration(case)
    _check_goal(case)
    precision = precision_of(case)
    plans = (plans or space(case, precision, devices or device_counts(case))).in_precision(precision)
    found = Shortlist(
        lambda prices: goal_values(case, prices), lambda prices: ~_narrow(case, calibration, prices.memory_bytes)
    )
    reasons, least, qualified, best = Counter[str](), _Least(), 0, Best()
    for part in nearest(case, plans, calibration, best, floors) if only_best else priced(case, plans, calibration):
        least = least.with_part(case, part)
        met = _met(case, part, reasons)
        able = part.of(_runs(case, part.grid.numbers, precision, engine))
        reasons[f"{engine} cannot run it" if engine else _unrun(case)] += int((met & ~able).sum())
        met &= able
        qualified += int(met.sum())
        prices = part.prices.chosen(met)
        best.worth = min(best.worth, goal_values(case, prices).min(initial=np.inf))
        found.add(prices)
    reasons = +reasons + Counter({reason: count for reason, count in plans.impossible.items() if not len(plans)})
    if not qualified:
        refused = _no_plan(case, len(plans), least, reasons)
        shorter = _shorter_sequence(case, calibration, engine) if advise and len(plans) and not least.fits else None
        if shorter is not None:
            refused.hint += f" With sequences of {shorter:,} tokens a plan fits: application.sequence={shorter}."
        raise refused
    prices = found.prices()
    return Ranking(
        case, plans, prices, _ordered(case, plans, prices, calibration), qualified, reasons, calibration, engine
    )


def _runs(case: Case, plans: PlanNumbers, precision: str, engine: str) -> Any:
    """A mask over plans: which of them `engine` can run, or some engine where none is named."""
    return runnable(engine, case, plans, precision) if engine else exportable(case, plans, precision)


def _unrun(case: Case) -> str:
    named = engine_named(case.site.stack)
    return f"the configuration of {named}, which `site.stack` names, cannot say it" if named else _UNRUN


def precision_of(case: Case) -> str:
    """The precision that is asked for, or the first of bf16, fp16 and fp32 that accelerator and stack have.

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
        stacks.check_trained(wanted, case.site.stack, accelerator.kind)
        return wanted
    if usual := stacks.unasked(peaks, case.site.stack, accelerator.kind):
        return usual
    raise Incompatible(f"{accelerator.name} states no rate for bf16, fp16 or fp32.", where="site.accelerator")


def device_counts(case: Case) -> list[int]:
    """Numbers of devices to try: all that divide a small site; of a large one all, or, where money or energy is asked
    for, a half, a quarter and an eighth too.
    """
    devices = case.site.devices
    if devices <= _SMALL_SITE:
        return divisors(devices)
    if case.goal.minimise == "time" and not case.goal.spends:
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
    if (goal.minimise == "energy" or goal.energy_j < float("inf")) and not card.power_w:
        raise Incompatible(
            f"the goal asks for joules, and nobody stated the power of {card.name}.",
            where="goal",
            hint="Write `power: 300 W` for the accelerator.",
        )


@dataclass(frozen=True, slots=True)
class _Least:
    """The least that any plan needs of memory, and of those that fit: whether one ends, seconds, dollars and joules."""

    memory_bytes: float = float("inf")
    total_s: float = float("inf")
    cost_usd: float = float("inf")
    energy_j: float = float("inf")
    fits: int = 0
    ends: bool = False

    def with_part(self, case: Case, part: Priced) -> _Least:
        """The least of this and of a grid."""
        prices = part.prices
        return _Least(
            min(self.memory_bytes, part.least_bytes),
            min(self.total_s, prices.total_s.min(initial=np.inf)),
            min(self.cost_usd, prices.cost_usd.min(initial=np.inf)),
            min(self.energy_j, prices.energy_j.min(initial=np.inf)),
            self.fits + len(prices),
            self.ends or bool(_ends(case, prices).any()),
        )


def _met(case: Case, part: Priced, reasons: Counter[str]) -> NDArray[np.bool_]:
    """A mask over what was priced: what meets the goal; the rest is counted by the first reason that stands against."""
    goal, prices = case.goal, part.prices
    memory = human(case.site.accelerator.memory_bytes, "bytes")
    reasons[f"needs more than the {memory} of one {case.site.accelerator.name}"] += part.plans - len(prices)
    met = np.ones(len(prices), dtype=bool)
    hosted = _hosted(case, part)
    for reason, passes in (
        *([] if hosted is True else [(_crowded(case), hosted)]),
        (_full(case), on_one_disk(case, prices.devices, _KEEP) <= case.site.disk.capacity_bytes),
        (_FAILING, _ends(case, prices)),
        (f"takes longer than {human_time(goal.deadline_s)}", prices.total_s <= goal.deadline_s),
        (f"costs more than {human(goal.budget_usd, 'usd')}", prices.cost_usd <= goal.budget_usd),
        (f"draws more than {human(goal.energy_j, 'joules')}", prices.energy_j <= goal.energy_j),
    ):
        reasons[reason] += int(np.count_nonzero(met & ~passes))
        met &= passes
    return met


def _hosted(case: Case, part: Priced) -> NDArray[np.bool_] | Literal[True]:
    """Whether hosts suffice for what was priced, at worst with checkpoints that hold the loop; True: for all."""
    return True if part.copied.all() else part.copied | part.of(holds_saves(case, part.grid.numbers))


def _ends(case: Case, prices: Prices) -> NDArray[np.bool_]:
    """Whether failures leave a run the time to get on."""
    return prices.total_s <= _ENDLESS * (case.application.steps * prices.step_s + RESTART_S)


def _crowded(case: Case) -> str:
    has = human(case.site.host_memory_bytes, "bytes")
    return f"may need more host memory than nine tenths of the {has} of a host, however it saves"


def _full(case: Case) -> str:
    capacity = human(case.site.disk.capacity_bytes, "bytes")
    return f"keeps {_KEEP} checkpoints and writes one more, which a disk of {capacity} does not hold"


def _ordered(case: Case, plans: Space, prices: Prices, calibration: Calibration) -> NDArray[np.int64]:
    """By the goal in steps of what the forecast can tell apart, then what surely fits, is sooner done, is simpler."""
    narrow = _narrow(case, calibration, prices.memory_bytes)
    return preferred(goal_values(case, prices), plans.part(prices.cells), narrow, prices.total_s)


def _narrow(case: Case, calibration: Calibration, memory_bytes: Any) -> Any:
    return memory_bytes * calibration.spread("peak_memory")[1] > case.site.accelerator.memory_bytes


def _front(ranking: Ranking, most: int) -> list[int]:
    prices = ranking.prices.chosen(ranking.order)
    candidates = np.flatnonzero(unbeaten(prices))
    front: list[int] = []
    best_cost = best_memory = np.inf
    keys = (prices.memory_bytes, prices.cost_usd, prices.total_s)
    for place in candidates[np.lexsort(tuple(key[candidates] for key in keys))]:
        cost, memory = prices.cost_usd[place], prices.memory_bytes[place]
        # A plan earns its place by being clearly cheaper or clearly smaller than every faster one.
        if cost < best_cost * (1 - SAME_SHARE) or memory < best_memory * 0.9:
            front.append(int(place))
            best_cost, best_memory = min(best_cost, cost), min(best_memory, memory)
            if len(front) == most:
                break
    return front


def _shorter_sequence(case: Case, calibration: Calibration, engine: str) -> int | None:
    """The longest of half the case's sequence, a quarter and so on with which it has a plan; None where none has."""
    halves = [case.application.sequence >> times for times in range(1, 32)]
    tried = [sequence for sequence in halves if sequence >= _SHORTEST]
    if not tried or not _has_plan(case, tried[-1], calibration, engine):
        return None
    return next(sequence for sequence in tried if _has_plan(case, sequence, calibration, engine))


def _has_plan(case: Case, sequence: int, calibration: Calibration, engine: str) -> bool:
    """Whether the case has a plan in shorter sequences: as many where it states how many, else as many tokens."""
    application, usual = case.application, "application.global_batch" in case.defaults
    batch = application.global_batch * (application.sequence // sequence if usual else 1)
    shorter = replace(case, application=replace(application, sequence=sequence, global_batch=batch))
    try:
        search(shorter, calibration, engine=engine, only_best=True)
    except (NoPlan, Incompatible):
        return False
    return True


def _no_plan(case: Case, plans: int, least: _Least, reasons: Counter[str]) -> NoPlan:
    if not plans:
        what = f"{case.model.name} cannot be cut over {case.site.devices} devices with these batches."
        return NoPlan(what, reasons=dict(reasons), hint="Choose another application.global_batch.")
    if not least.fits:
        what = (
            f"{case.model.name} does not fit on {case.site.name}: the smallest of {plans:,} plans needs"
            f" {human(least.memory_bytes, 'bytes')} on a device with"
            f" {human(case.site.accelerator.memory_bytes, 'bytes')}."
        )
        frozen = _FROZEN_BYTES * case.model.parameters() < case.site.devices * case.site.accelerator.memory_bytes
        adapters = ", or fine-tune with LoRA" if frozen and case.application.method == "full" else ""
        hint = f"Ask `datahall plan --ask site` how many nodes hold it{adapters}."
        return NoPlan(what, reasons=dict(reasons), hint=hint)
    if any(reason.endswith("cannot run it") for reason in reasons):
        return NoPlan(
            "no plan that meets the goal can be run by this engine.", reasons=dict(reasons), hint="Leave --for out."
        )
    if reasons.get(_unrun(case), 0):
        hint = "Name another site.stack, or an engine by --for."
        return NoPlan("no engine can run a plan that meets the goal.", reasons=dict(reasons), hint=hint)
    if reasons.get(_crowded(case), 0) == least.fits:
        what = (
            f"no plan for {case.model.name} surely fits the {human(case.site.host_memory_bytes, 'bytes')} of its hosts."
        )
        hint = f"Use more nodes, or state a larger site.host_memory.{weights_remark(case)}"
        return NoPlan(what, reasons=dict(reasons), hint=hint)
    if reasons.get(_full(case), 0) == least.fits:
        what = f"{_KEEP + 1} checkpoints of {case.model.name} do not fit on the disks of {case.site.name}."
        return NoPlan(what, reasons=dict(reasons), hint="State a disk with a larger capacity, or a shared one.")
    if not least.ends:
        what = f"no run on {case.site.name} would end: devices fail before they get anywhere."
        return NoPlan(what, reasons=dict(reasons), hint="Check site.mtbf_per_device.")
    what = f"no plan meets the goal: the fastest takes {human_time(least.total_s)}"
    what += f", the cheapest costs {human(least.cost_usd, 'usd')}" if least.cost_usd else ""
    what += f", the thriftiest draws {human(least.energy_j, 'joules')}" if least.energy_j else ""
    question = "hardware" if case.goal.spends else "site"  # more nodes do not make a run cheaper
    what += "."
    return NoPlan(what, reasons=dict(reasons), hint=f"Ask `datahall plan --ask {question}` what would meet it.")
