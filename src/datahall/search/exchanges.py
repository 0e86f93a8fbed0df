"""Which way of exchanging gradients pays for a case: the best data-parallel plan, priced with each.

By the same step as any plan, except that nothing of an exchange is hidden, not even of the plain one.  Steps to the
same loss are the shipped factors of one small model (`network.choose`), so the order is a start and not a promise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from datahall.base.errors import NoPlan
from datahall.base.label import Label, weakest
from datahall.base.metric import Metric
from datahall.case.question import Case
from datahall.compute.numbers import PlanNumbers
from datahall.decisions.plan import Plan
from datahall.network.choose import SHIPPED
from datahall.search.rank import Ranking, search
from datahall.virtual.calibration import Calibration
from datahall.virtual.gradient_plan import exchange_s, exchanged
from datahall.virtual.step_time import StepInputs, StepSeconds, step_time
from datahall.virtual.training import forecast
from datahall.virtual.unstated import unsure_of_network


@dataclass(frozen=True, slots=True)
class ExchangeOffer:
    """One way: seconds and bytes handed over a step, and seconds for what plain learns in one step."""

    name: str
    plan: Plan
    step_s: float
    transfer_s: float
    handed_bytes: float
    equal_loss_s: float
    metrics: tuple[Metric, Metric, Metric]  # of the three times, with interval and label


def exchanges(case: Case, calibration: Calibration | None = None) -> list[ExchangeOffer]:
    """Every shipped way with the best data-parallel plan of the case, the shortest time to the same loss first.

    NoPlan where no plan with data-parallel copies alone fits.
    """
    ranking = search(case, calibration)
    plan = _data_parallel(ranking)
    inputs = ranking.calibration.inputs(case, plan.compute)
    offers = [_offer(case, replace(plan, network=one), name, ranking, inputs) for name, (one, _, _) in SHIPPED.items()]
    return sorted(offers, key=lambda offer: offer.equal_loss_s)


def _offer(case: Case, plan: Plan, name: str, ranking: Ranking, inputs: StepInputs) -> ExchangeOffer:
    """What `plan` takes with its exchange, whose seconds are worked out for the links that are asked about."""
    found, numbers, factor = exchanged(case, plan), PlanNumbers.of(plan.compute), SHIPPED[name][1]

    def timed(other: StepInputs) -> StepSeconds:
        return step_time(replace(other, gradient_s=exchange_s(case, plan, found, other.links)), numbers)

    seconds = timed(inputs)
    step, sent, handed = float(seconds.total), float(seconds.transfer), sum(call.bytes for call in found.calls)
    known = forecast(case, plan, ranking.calibration).metrics
    sure = unsure_of_network(case, ranking.calibration, inputs, timed, seconds)
    metrics = (
        _spread("step_time", step, sure.spread("step_time"), known["step_time"].label),
        _spread("transfer", sent, sure.spread("transfer"), known["transfer"].label),
        # Steps to the same loss are a small model's, of whose own spread nothing is known.
        _spread(
            "equal_loss_time",
            factor * step,
            sure.spread("step_time"),
            weakest([known["step_time"].label, Label.TRANSFERRED]),
        ),
    )
    return ExchangeOffer(name, plan, step, sent, handed / found.every, factor * step, metrics)


def _spread(name: str, value_s: float, ends: tuple[float, float], label: Label) -> Metric:
    low, high = ends
    return Metric(name, "seconds", value_s, value_s * low, value_s * high, label)


def _data_parallel(ranking: Ranking) -> Plan:
    plans = ranking.numbers()
    alone = (plans.tensor == 1) & (plans.pipeline == 1) & (plans.context == 1) & (plans.expert == 1)
    places = np.flatnonzero(alone & (plans.data > 1) & (plans.zero_stage == 0))
    if len(places):
        return ranking.plan(int(places[0]))
    raise NoPlan(
        "no plan of data-parallel copies alone fits, and only their gradients can be compressed or exchanged rarer.",
        reasons=dict(ranking.reasons),
        hint="Ask `datahall plan` without --ask for the splits that fit.",
    )
