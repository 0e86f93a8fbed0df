"""How good a forecast with an interval was: error, coverage, width, and the interval score that makes width cost.

Held-out configurations are scored here, before and after calibration, by the same few formulas everywhere.  Nothing is
fitted here.  Intervals are nominal 90 % unless `nominal_share` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datahall.base.errors import UsageError
from datahall.base.formula import formula

NOMINAL_SHARE = 0.9
NORMAL_90 = 1.645  # standard deviations to either end of a normal 90 % interval
REJECT_BELOW = 0.05


@formula(
    equation="(u - l) + 2/a (l - x) [x < l] + 2/a (x - u) [x > u], a = 1 - nominal",
    source="Gneiting & Raftery, Strictly Proper Scoring Rules, JASA 102 (2007), eq. 43",
    holds="central intervals; smaller is better, in the unit of its inputs",
)
def interval_score(
    low: ArrayLike, high: ArrayLike, measured: ArrayLike, nominal_share: float = NOMINAL_SHARE
) -> NDArray[np.float64]:
    """The interval score of each forecast interval: its width, and a penalty for a measurement outside it."""
    lower, upper, truth = (np.asarray(values, dtype=np.float64) for values in (low, high, measured))
    penalty = 2.0 / (1.0 - nominal_share)
    below, above = np.maximum(lower - truth, 0.0), np.maximum(truth - upper, 0.0)
    return np.asarray((upper - lower) + penalty * (below + above), dtype=np.float64)


@formula(
    equation="p = sum of P(k) over all k with P(k) <= P(covered), P binomial(n, nominal)",
    source="Clopper & Pearson, Biometrika 26 (1934); the exact two-sided binomial test",
    holds="independent configurations",
)
def coverage_p_value(covered: int, n: int, nominal_share: float = NOMINAL_SHARE) -> float:
    """The exact two-sided p-value of `covered` of `n` intervals holding, if each holds with `nominal_share`."""
    if n < 1 or not 0 <= covered <= n:
        raise UsageError(f"{covered} of {n} intervals cannot have held.", hint="Score at least one configuration.")
    chances = [math.comb(n, k) * nominal_share**k * (1 - nominal_share) ** (n - k) for k in range(n + 1)]
    limit = chances[covered] * (1 + 1e-9)
    return min(1.0, math.fsum(chance for chance in chances if chance <= limit))


def coverage_accepted(covered: int, n: int, nominal_share: float = NOMINAL_SHARE) -> bool:
    """Whether the binomial test at 5 % lets the nominal coverage stand."""
    return coverage_p_value(covered, n, nominal_share) >= REJECT_BELOW


@dataclass(frozen=True, slots=True)
class HeldOutPoint:
    """One configuration that the fit has not seen: measured, and forecast after and before calibration, one unit."""

    name: str
    measured: float
    forecast: float
    low: float
    high: float
    forecast_before: float
    low_before: float
    high_before: float


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """How the forecast did on held-out configurations.  Errors, widths and interval scores are shares of the measured
    value, so that long configurations do not outweigh short ones.
    """

    n: int
    median_error_share_before: float
    median_error_share: float
    coverage_share: float
    coverage_p_value: float
    median_half_width_share: float
    interval_score: float
    interval_score_before: float
    points: tuple[HeldOutPoint, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether calibration made the forecast better: both the median error and the interval score fell."""
        return (
            self.median_error_share < self.median_error_share_before
            and self.interval_score < self.interval_score_before
        )

    @property
    def sentence(self) -> str:
        """What to say about it; worse is called worse."""
        word = "better" if self.improved else "worse or no better"
        return (
            f"{word} on {self.n} configurations that the fit has not seen: median error "
            f"{100 * self.median_error_share_before:.1f} % before, {100 * self.median_error_share:.1f} % after; "
            f"{100 * self.coverage_share:.0f} % inside their 90 % interval"
        )

    def to_json(self, *, with_points: bool = True) -> dict[str, Any]:
        """The score as plain JSON values; the single configurations under `points`."""
        data = asdict(self)
        points = data.pop("points")
        return {**data, "points": list(points)} if with_points else data


def score_heldout(points: Sequence[HeldOutPoint], nominal_share: float = NOMINAL_SHARE) -> HeldOutScore:
    """The score of held-out configurations.  UsageError when there is none or a measurement is not positive."""
    if not points or any(point.measured <= 0 for point in points):
        raise UsageError("held-out scores need at least one configuration, each with a positive measurement.")
    measured, forecast, low, high, before, low_before, high_before = (
        np.array([getattr(point, name) for point in points], dtype=np.float64)
        for name in ("measured", "forecast", "low", "high", "forecast_before", "low_before", "high_before")
    )
    covered = int(np.count_nonzero((low <= measured) & (measured <= high)))
    score = interval_score(low / measured, high / measured, 1.0, nominal_share)
    score_before = interval_score(low_before / measured, high_before / measured, 1.0, nominal_share)
    return HeldOutScore(
        n=len(points),
        median_error_share_before=float(np.median(np.abs(before / measured - 1.0))),
        median_error_share=float(np.median(np.abs(forecast / measured - 1.0))),
        coverage_share=covered / len(points),
        coverage_p_value=coverage_p_value(covered, len(points), nominal_share),
        median_half_width_share=float(np.median((high - low) / (2.0 * measured))),
        interval_score=float(np.mean(score)),
        interval_score_before=float(np.mean(score_before)),
        points=tuple(points),
    )


def heldout_from_json(data: dict[str, Any]) -> HeldOutScore:
    """The score that `HeldOutScore.to_json` wrote, with or without its points."""
    points = tuple(HeldOutPoint(**point) for point in data.get("points", ()))
    numbers: dict[str, Any] = {name: value for name, value in data.items() if name != "points"}
    return HeldOutScore(**numbers, points=points)
