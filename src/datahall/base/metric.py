"""A number with its interval and its label: what a forecast and a measurement are made of.

A metric does not know how it was made.  Intervals are nominal 90 % unless the field that holds them says otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datahall.base.label import Label

# A 90 % interval ends at the 95th percentile; the 90th of a log-normal spread lies z(0.90)/z(0.95) of the way there.
_Z_P95 = 1.6449
TO_P90 = 1.2816 / _Z_P95


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a result.

    `unit` is a dimension of `datahall.base.units`; `low` and `high` bound the 90 % interval in the same unit;
    `label` says where the number comes from.
    """

    name: str
    unit: str
    value: float
    low: float
    high: float
    label: Label

    def to_json(self) -> dict[str, Any]:
        """The metric as plain JSON values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "label": str(self.label),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Metric:
        """The metric that `to_json` wrote."""
        return cls(data["name"], data["unit"], data["value"], data["low"], data["high"], Label.of(data["label"]))


def exactly(name: str, unit: str, value: float, label: Label = Label.MEASURED) -> Metric:
    """A metric without spread."""
    return Metric(name, unit, value, value, value, label)


def percentile_90(metric: Metric) -> float:
    """The 90th percentile of a metric whose 90 % interval ends at the 95th, spread log-normally above its value."""
    if metric.value <= 0 or metric.high <= metric.value:
        return metric.value
    return metric.value * (metric.high / metric.value) ** TO_P90


def chance_below(metric: Metric, bound: float) -> float:
    """How likely a metric is at most `bound` (share): log-normal on each side of its value, as its interval is wide."""
    if metric.value <= 0 or bound <= 0:
        return float(metric.value <= bound)
    off = math.log(bound / metric.value)
    end = metric.high if off >= 0 else metric.low
    width = abs(math.log(end / metric.value)) if end > 0 else math.inf
    return float(off >= 0) if width == 0 else 0.5 * (1.0 + math.erf(off * _Z_P95 / width / math.sqrt(2.0)))


def overlaps(metrics: Sequence[Metric]) -> list[bool]:
    """Of metrics in an order, whether the interval of each overlaps that of the one before; the first has none."""
    pairs = itertools.pairwise(metrics)
    told = (bool(one.low <= other.high and other.low <= one.high) for one, other in pairs)  # JSON has no NumPy bool
    return [False, *told][: len(metrics)]
