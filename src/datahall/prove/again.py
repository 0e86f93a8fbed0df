"""Choose again with what the calibration taught, and measure whether that choice was right.

The sealed plan was chosen by the probe's rates alone.  Here the calibrated rates choose among the same plans, and the
choice runs in turn with the best plan that uses the cores in another way and with the sealed one where that differs.
Forecasts are sealed first, as always.  Nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from datahall.base.event import Event
from datahall.calibrate.machine import Machine
from datahall.case.question import Case
from datahall.decisions.plan import Plan
from datahall.prove import planning, seal
from datahall.prove.effort import Effort
from datahall.prove.folder import write_json
from datahall.prove.planning import PricedPlan
from datahall.real.training import run
from datahall.report.data import ChoiceAgain, Contender

SEALED, CHOSEN, OTHER = "sealed first", "chosen again", "best of another kind"


def choose_again(
    case: Case,
    plans: Sequence[Plan],
    fitted: Machine,
    sealed: Plan,
    effort: Effort,
    folder: Path,
    on_event: Callable[[Event], None],
    import_paths: Sequence[str] = (),
) -> ChoiceAgain:
    """The choice among `plans` by `fitted`, run beside its rivals; evidence is left in `folder`."""
    contenders = contenders_of(planning.price(case, plans, fitted.at), sealed)
    folder.mkdir(parents=True, exist_ok=True)
    digest = seal.seal(
        folder, {role: {"plan": one.plan.to_json(), **one.forecast.to_json()} for role, one in contenders}
    )
    measured: dict[str, list[float]] = {role: [] for role, _ in contenders}
    for number in range(effort.rounds):
        for role, one in contenders:
            steps = effort.steps(one.forecast.metrics["step_time"].value)
            without = replace(one.plan, storage=replace(one.plan.storage, interval_steps=0))
            where = folder / f"{role.replace(' ', '-')}-{number + 1}"
            played = run(case, without, where, steps=steps, count_flops=False, import_paths=import_paths).result
            measured[role].append(played.metrics["step_time"].value)
            told: dict[str, Any] = {"role": role, "name": one.name, "step_s": measured[role][-1]}
            on_event(Event(0.0, "contender", told))
    seal.check(folder)
    found = ChoiceAgain(
        tuple(_contender(role, one, median(measured[role])) for role, one in contenders), seal_sha256=digest
    )
    write_json(folder / "again.json", found.to_json())
    return found


def contenders_of(priced: Sequence[PricedPlan], sealed: Plan) -> list[tuple[str, PricedPlan]]:
    """What is worth running, by role: the choice, the best plan with other processes or threads, the sealed plan."""
    chosen = priced[0]
    way = (chosen.plan.compute.data, chosen.plan.compute.threads)
    others = [one for one in priced if one.fits and (one.plan.compute.data, one.plan.compute.threads) != way]
    found = [(CHOSEN, chosen)] + [(OTHER, one) for one in others[:1]]
    if all(one.plan.compute != sealed.compute for _, one in found):
        found += [(SEALED, one) for one in priced if one.plan.compute == sealed.compute]
    return found


def _contender(role: str, one: PricedPlan, measured_s: float) -> Contender:
    step = one.forecast.metrics["step_time"]
    return Contender(role, one.name, step.value, step.low, step.high, measured_s)
