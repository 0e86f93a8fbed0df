"""How often a plan should write checkpoints, and what other intervals cost: each with an interval and a label.

What one checkpoint takes is `virtual.checkpoints`', how a plan writes `saves`'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datahall.base.errors import UsageError
from datahall.base.label import Label, weakest
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.case.site import Site
from datahall.compute.numbers import PlanNumbers
from datahall.search.rank import Ranking
from datahall.search.why import explain
from datahall.virtual.checkpoints import codec_sentence
from datahall.virtual.failures import background_interval_s, wall_over_work, young_interval_s
from datahall.virtual.training import RESTART_S

# A rate of failures that nobody stated: half to double.  OPT-175B's devices failed twice as often as Llama 3's, whose
# rate is the usual one (`catalog.rates`); two runs are no distribution.
UNSTATED_TIMES = 2.0


@dataclass(frozen=True, slots=True)
class CheckpointAnswer:
    """How often to write checkpoints, seconds of work apart, and what each choice costs (share of the time).

    A checkpoint is under way for `write_s`; it holds the loop for `stall_s` and makes steps longer by `slowed_s`.
    `beside` is whether it is written beside training.  `metrics` has these, the interval and the time between
    two failures of any device, with what they rest on.
    """

    write_s: float
    stall_s: float
    slowed_s: float
    between_failures_s: float
    young_s: float
    daly_s: float
    daly_steps: int
    lost_shares: Sequence[tuple[float, float]]  # interval in seconds, share of the wall time that is not training
    lost: Sequence[Metric]  # the same shares, with intervals
    metrics: Sequence[Metric]
    codec: str
    codec_why: str
    beside: bool


def checkpoint_interval(ranking: Ranking) -> CheckpointAnswer:
    """How often the best plan should write checkpoints; UsageError where nobody stated how often devices fail."""
    case, plan = ranking.case, ranking.plan()
    if case.site.failures_per_device_s <= 0:
        raise UsageError(
            "how often to write depends on how often devices fail, which the site does not state.",
            hint='Say --set "site.mtbf_per_device=5 years", or what you saw.',
        )
    between = _between_failures(case.site, plan.compute.devices)
    step_s = float(ranking.prices.step_s[ranking.order[0]])
    saved = _saved(explain(ranking))
    write, cost = saved[0], _sum("checkpoint_cost", saved[1:])
    best = _apart(
        "interval",
        _each(lambda cost_s, write_s: background_interval_s(cost_s, write_s, between.value), "", cost, write),
        _each(lambda between_s: background_interval_s(cost.value, write.value, between_s), "", between),
    )
    tried = [best.value * factor for factor in (0.1, 0.3, 1.0, 3.0, 10.0)]
    lost = [(every, _lost(every, cost, between)) for every in tried if every >= min(write.value, best.value)]
    return CheckpointAnswer(
        *(metric.value for metric in saved),
        between_failures_s=between.value,
        young_s=float(young_interval_s(cost.value, between.value)),
        daly_s=best.value,
        daly_steps=max(1, round(best.value / step_s)),
        lost_shares=[(every, share.value) for every, share in lost],
        lost=[share for _, share in lost],
        metrics=[*saved, best, between],
        codec=plan.storage.codec,
        codec_why=codec_sentence(case, plan.storage, PlanNumbers.of(plan.compute)),
        beside=plan.storage.asynchronous,
    )


def _saved(forecast: Result) -> list[Metric]:
    """Seconds that a checkpoint is under way, holds the loop, and slows steps, as the plan's forecast has them."""
    write, stall = forecast.metrics["checkpoint_write"], forecast.metrics["checkpoint"]
    none = Metric("checkpoint_slowing", "seconds", 0.0, 0.0, 0.0, stall.label)
    return [write, stall, forecast.metrics.get("checkpoint_slowing", none)]


def _sum(name: str, parts: Sequence[Metric]) -> Metric:
    """Parts that err together."""
    return _each(lambda *values: sum(values), name, *parts)


def _each(what: Callable[..., Any], name: str, *parts: Metric) -> Metric:
    """What grows with its parts, of their values and of both ends of their intervals."""
    value, low, high = (float(what(*(getattr(part, end) for part in parts))) for end in ("value", "low", "high"))
    return Metric(name, parts[0].unit, value, low, high, weakest(part.label for part in parts))


def _apart(name: str, one: Metric, other: Metric) -> Metric:
    """One value by two causes that err apart, each with the ends that it alone makes."""
    low, high = (
        one.value * math.exp(way * math.hypot(*(math.log(getattr(part, end) / one.value) for part in (one, other))))
        for end, way in (("low", -1.0), ("high", 1.0))
    )
    return Metric(name, one.unit, one.value, low, high, weakest([one.label, other.label]))


def _between_failures(site: Site, devices: int) -> Metric:
    """Seconds between two failures of any device; exact where somebody stated how often one fails."""
    label, seconds = site.label("failures_per_device_s"), 1.0 / (site.failures_per_device_s * devices)
    times = UNSTATED_TIMES if label is Label.ASSUMED else 1.0
    return Metric("between_failures", "seconds", seconds, seconds / times, seconds * times, label)


def _lost(every_s: float, cost: Metric, between: Metric) -> Metric:
    """The share of the time that is no training with a checkpoint every so many seconds."""

    def lost(cost_s: float, failures_per_s: float) -> float:
        return 1.0 - 1.0 / float(wall_over_work(every_s, cost_s, RESTART_S, 1.0 / failures_per_s))

    rate = replace(between, value=1.0 / between.value, low=1.0 / between.high, high=1.0 / between.low)
    by_cost = _each(lambda cost_s: lost(cost_s, rate.value), "", cost)
    by_rate = _each(lambda failures_per_s: lost(cost.value, failures_per_s), "", rate)
    return replace(_apart("lost_share", by_cost, by_rate), unit="share")
