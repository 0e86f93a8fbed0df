"""Fit a few multipliers to runs made here, and say how far forecasts of other configurations can be trusted.

A component's forecast depends on a few named constants (matrix products, attention, launches, bytes, ...).  One
multiplier a constant is fitted to what was measured, each held near one by its own prior, so that a constant that the
runs hardly show stays where the probe put it, and one that the probe guessed moves before one that it measured.  How
tightly priors hold is chosen by forecasts of left-out runs: few or noisy runs may hardly move anything.  Intervals are
quantiles of left-out residuals, never of the fit's own.  Nothing here runs anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOISE_LOG_SD = 0.08  # scatter of one run's median step on a shared machine
MOST_LOG = 2.5  # no multiplier beyond a factor of twelve
FEWEST = 5  # left-out residuals of a component that say how far it may be off
LEAST_SHARE = 0.02  # components below this share of the step do not steer the fit
_ROUNDS, _NEAR = 25, 1e-4  # of the fit, at most; it ends when no logarithm moves further
HOLDS = (0.15, 0.3, 0.6, 1.0)  # shares of the priors' standard deviations, tightest first

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A component's forecast seconds, and by constant its derivative to the logarithm of that constant."""

    seconds: float
    slopes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Observation:
    """One configuration: its forecast as a function of multipliers, and its measured components, seconds per step.

    `forecast_at` maps multipliers by constant to the forecast by component.  `position` places the configuration (logs
    of its width, depth, ...) for the distance that widens intervals.  `unsure_log_sd` is how unsure the measurement is
    beyond the usual scatter.
    """

    forecast_at: Callable[[Mapping[str, float]], Mapping[str, Sensitivity]]
    measured: Mapping[str, float]
    position: tuple[float, ...]
    unsure_log_sd: float = 0.0


@dataclass(frozen=True, slots=True)
class LocalCalibration:
    """Fitted multipliers by term, and the 90 % spread of log residuals by component, from left-out configurations.

    `positions` are the configurations that were seen; `runs` how many.  Before any run: no multipliers, wide spreads.
    """

    multipliers: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    spreads: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    positions: tuple[tuple[float, ...], ...] = ()

    @property
    def runs(self) -> int:
        """Configurations that the multipliers were fitted to."""
        return len(self.positions)

    def spread(self, component: str, position: Sequence[float], fallback: float) -> float:
        """Half the width of the 90 % interval of the logarithm; `fallback` for a component never measured."""
        return self.spreads.get(component, fallback) * self.widening(position)

    def widening(self, position: Sequence[float]) -> float:
        """At least one: how much wider an interval is at a distance from what was seen (one e-fold off: 1.4 times)."""
        if not self.positions:
            return 1.0
        seen = np.asarray(self.positions)
        outside = np.maximum(seen.min(axis=0) - position, 0) + np.maximum(position - seen.max(axis=0), 0)
        return float(np.sqrt(1.0 + np.sum(outside**2)))

    def to_json(self) -> dict[str, Any]:
        """The calibration as plain JSON values."""
        return {
            "multipliers": dict(self.multipliers),
            "spreads": dict(self.spreads),
            "positions": [list(position) for position in self.positions],
        }


def fit_local(
    observations: Sequence[Observation], prior_log_sd: Callable[[str], float], total: str = "step_time"
) -> LocalCalibration:
    """Multipliers from all observations; spreads from leaving each out in turn.

    `prior_log_sd` is how far a constant may be off before any run, as the standard deviation of its logarithm; it is
    made smaller where left-out runs are not forecast better for it (`HOLDS`).

    The spread of a component is the smallest value that covers a 90 % share of one more observation if they are
    exchangeable (split conformal prediction, Lei et al. 2018, section 2.2, with jackknife residuals); `total` names the
    spread of the components' sum.
    """
    multipliers, left_out = _held(observations, prior_log_sd, total)
    residuals: dict[str, list[float]] = {}
    for errors in left_out:
        for component, error in errors.items():
            residuals.setdefault(component, []).append(abs(error))
    spreads = {name: conformal_quantile(errors) for name, errors in residuals.items() if len(errors) >= FEWEST}
    return LocalCalibration(multipliers, spreads, tuple(observation.position for observation in observations))


def log_errors(multipliers: Mapping[str, float], observation: Observation, total: str) -> dict[str, float]:
    """Logarithm of measured over forecast, by component that matters, and of the sum under the name `total`."""
    forecast = {name: one.seconds for name, one in observation.forecast_at(multipliers).items()}
    errors = {
        component: math.log(observation.measured[component] / seconds)
        for component, seconds in forecast.items()
        if seconds > 0 and _weight(observation, component) > 0
    }
    measured_total = sum(observation.measured.values())
    if measured_total > 0 and sum(forecast.values()) > 0:
        errors[total] = math.log(measured_total / sum(forecast.values()))
    return errors


def conformal_quantile(absolute_errors: Sequence[float], coverage: float = 0.9) -> float:
    """The ceil((n+1) coverage)-th smallest of n errors; the largest, widened, where n is too small for that."""
    ordered = sorted(absolute_errors)
    rank = math.ceil((len(ordered) + 1) * coverage)
    if not ordered:
        return math.inf
    if rank <= len(ordered):
        return max(ordered[rank - 1], NOISE_LOG_SD)
    shortfall = rank / len(ordered)  # n = 5 cannot show 90 %: widen by the ranks that are missing
    return max(ordered[-1] * shortfall, NOISE_LOG_SD)


def _held(
    observations: Sequence[Observation], prior_log_sd: Callable[[str], float], total: str
) -> tuple[Mapping[str, float], list[dict[str, float]]]:
    """Multipliers and left-out errors at the tightest hold that is no worse than the best by more than is chance.

    One standard error of the paired difference (Breiman et al. 1984, section 3.4.3); with one or two runs the tightest.
    """
    found: list[tuple[Mapping[str, float], list[dict[str, float]]]] = []
    multipliers: Mapping[str, float] = {}
    for hold in HOLDS if len(observations) > 2 else HOLDS[:1]:
        multipliers, fits = _fit(observations, _times(prior_log_sd, hold), multipliers)
        found.append((multipliers, [log_errors(fit, one, total) for fit, one in zip(fits, observations, strict=True)]))
    squares = np.array([[one[total] ** 2 for one in errors] for _, errors in found])
    worse = squares - squares[np.argmin(squares.mean(axis=1))]
    chance = worse.std(axis=1) / math.sqrt(max(1, len(observations) - 1))
    return found[int(np.argmax(worse.mean(axis=1) <= chance))]


def _times(prior_log_sd: Callable[[str], float], hold: float) -> Callable[[str], float]:
    return lambda name: hold * prior_log_sd(name)


def _fit(
    observations: Sequence[Observation], prior_log_sd: Callable[[str], float], start: Mapping[str, float]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Multipliers that minimise squared log residuals of the components plus the prior, by damped Gauss-Newton.

    Then those without each observation in turn, by one more step from there.
    """
    names = sorted({name for one in observations for part in one.forecast_at(start).values() for name in part.slopes})
    logs = np.array([math.log(start.get(name, 1.0)) for name in names])
    certainty = np.array([prior_log_sd(name) ** -2 for name in names])

    def after(rows: Sequence[tuple[Floats, Floats]]) -> Floats:
        normal = sum((jacobian.T @ jacobian for jacobian, _ in rows), np.diag(certainty))
        pull = sum((jacobian.T @ residual for jacobian, residual in rows), -logs * certainty)
        step = np.clip(np.linalg.solve(normal, pull), -0.5, 0.5)
        return np.asarray(np.clip(logs + step, -MOST_LOG, MOST_LOG), dtype=np.float64)

    rows: list[tuple[Floats, Floats]] = []
    for _ in range(_ROUNDS):
        rows = [_linearised(one, names, dict(zip(names, np.exp(logs), strict=True))) for one in observations]
        moved = after(rows)
        near = float(np.max(np.abs(moved - logs), initial=0.0)) < _NEAR
        logs = moved
        if near:
            break
    without = [after([*rows[:index], *rows[index + 1 :]]) for index in range(len(rows))]
    fits = [{name: float(value) for name, value in zip(names, np.exp(one), strict=True)} for one in (logs, *without)]
    return fits[0], fits[1:]


def _linearised(
    observation: Observation, names: Sequence[str], multipliers: Mapping[str, float]
) -> tuple[Floats, Floats]:
    """Derivatives of the weighted log forecasts to the logs of the multipliers, and weighted log residuals."""
    rows: list[Floats] = []
    residuals: list[float] = []
    for component, part in observation.forecast_at(multipliers).items():
        weight = _weight(observation, component)
        if part.seconds <= 0 or weight <= 0:
            continue
        scale = weight / math.hypot(NOISE_LOG_SD, observation.unsure_log_sd)
        rows.append(np.array([part.slopes.get(name, 0.0) for name in names]) / part.seconds * scale)
        residuals.append(math.log(observation.measured[component] / part.seconds) * scale)
    return np.array(rows).reshape(-1, len(names)), np.array(residuals)


def _weight(observation: Observation, component: str) -> float:
    """How much a component steers the fit: by its share of the step, since a small one's logarithm is mostly noise."""
    measured = observation.measured.get(component, 0.0)
    total = sum(observation.measured.values())
    share = measured / total if total > 0 else 0.0
    return min(1.0, share / 0.2) ** 0.5 if share >= LEAST_SHARE else 0.0
