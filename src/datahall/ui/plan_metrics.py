"""Times, dollars and joules of forecasts with their intervals and labels, as cells, sentences and JSON of an answer.

Text only: the metrics are a forecast's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datahall.base.metric import Metric, overlaps
from datahall.base.result import Result
from datahall.base.units import human, human_interval
from datahall.search.ask import Offer

OF_A_RUN = ("total_time", "step_time", "tokens_per_s", "cost", "energy")
UNKNOWN = "≈"  # before what is not known to be worse than the row above
_TOLD = (("time", "total_time"), ("dollars", "cost"), ("joules", "energy"))


def metrics_json(forecast: Result) -> list[dict[str, Any]]:
    """The metrics of a whole run as plain JSON values, each with its interval and label."""
    return [forecast.metrics[name].to_json() for name in OF_A_RUN]


def offer_json(offer: Offer) -> dict[str, Any]:
    """An offer as plain JSON values."""
    compute = offer.ranking.compute(offer.place)
    return {
        "site": offer.site.name,
        "accelerator": offer.site.accelerator.name,
        "nodes": offer.site.nodes,
        "devices": offer.site.devices,
        "total_s": offer.total_s,
        "cost_usd": offer.cost_usd,
        "energy_j": offer.energy_j,
        "metrics": metrics_json(offer.forecast()),
        "plan": {name: getattr(compute, name) for name in compute.__dataclass_fields__},
    }


def cell(metric: Metric, unknown: str = "") -> str:
    """A metric over its interval, in two lines; `unknown` where it is zero, since nobody stated what it needs."""
    if metric.value <= 0:
        return unknown
    return f"{human(metric.value, metric.unit)}\n{human_interval(metric.low, metric.high, metric.unit)}"


def share_cell(metric: Metric, unknown: str = "") -> str:
    """As `cell`, the interval as shares of the value, which take less room: "−18 +22 %"."""
    if metric.value <= 0:
        return unknown
    less, more = (1.0 - metric.low / metric.value, metric.high / metric.value - 1.0)
    return f"{human(metric.value, metric.unit)}\n−{100 * less:.0f} +{100 * more:.0f} %"


def between(metric: Metric) -> str:
    """A metric with its interval in one line: "8.4 days (5.5 to 13.1 days)"."""
    return f"{human(metric.value, metric.unit)} ({human_interval(metric.low, metric.high, metric.unit)})"


def resting(forecasts: Sequence[Result]) -> str:
    """What intervals are and which figures stand behind them, in one sentence."""
    behind: dict[str, list[str]] = {}
    for word, name in _TOLD:
        labels = sorted({one.metrics[name].label for one in forecasts if one.metrics[name].value > 0})
        if labels:
            behind.setdefault(" or ".join(str(label) for label in labels), []).append(word)
    said = [f"behind {', '.join(words)}: {labels}" for labels, words in behind.items()]
    return f"Intervals are of 90 %; figures {'; '.join(said)}."


def unordered(metrics: Sequence[Metric], what: str) -> str:
    """How many rows have an interval that overlaps the one above; "" where all are told apart."""
    alike = sum(overlaps(metrics))
    if not alike:
        return ""
    rows = "the two rows" if len(metrics) == 2 else f"{alike} of {len(metrics) - 1} pairs of neighbours"
    return f"The intervals of {what} of {rows} overlap: by them alone their order is not known."
