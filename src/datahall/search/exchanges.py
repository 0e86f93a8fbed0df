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
from datahall.virtual.step_time import step_time
from datahall.virtual.training import forecast


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
    inputs, numbers = ranking.calibration.inputs(case, plan.compute), PlanNumbers.of(plan.compute)
    made: list[ExchangeOffer] = []
    for name, (network, factor, _) in SHIPPED.items():
        one = replace(plan, network=network)
        found = exchanged(case, one)
        seconds = step_time(replace(inputs, gradient_s=exchange_s(case, one, found, inputs.links)), numbers)
        step, sent, handed = float(seconds.total), float(seconds.transfer), sum(call.bytes for call in found.calls)
        known = forecast(case, one, ranking.calibration).metrics
        metrics = (
            _like(known["step_time"], step, "step_time"),
            _like(known["transfer"], sent, "transfer"),
            _equal_loss(_like(known["step_time"], factor * step, "equal_loss_time")),
        )
        made.append(ExchangeOffer(name, one, step, sent, handed / found.every, factor * step, metrics))
    return sorted(made, key=lambda offer: offer.equal_loss_s)


def _like(metric: Metric, value: float, name: str) -> Metric:
    """A value that is as sure as a metric of the same plan."""
    if metric.value <= 0:
        return replace(metric, name=name, value=value, low=0.0, high=value)
    low, high = (value * end / metric.value for end in (metric.low, metric.high))
    return replace(metric, name=name, value=value, low=low, high=high)


def _equal_loss(metric: Metric) -> Metric:
    """Steps to the same loss are a small model's, of whose own spread nothing is known."""
    return replace(metric, label=weakest([metric.label, Label.TRANSFERRED]))


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
