"""Fit a few multipliers to runs made here, and say how far forecasts of other configurations can be trusted.

A component's forecast is a sum of named terms (matrix products, attention, launches, bytes, ...).  One multiplier a
term is fitted to what was measured, each held near one by a prior, so that a term that the runs hardly show stays where
the probe put it.  Intervals are quantiles of left-out residuals, never of the fit's own.  Nothing here runs anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

PRIOR_LOG_SD = 0.6  # a term measured by the probe is right within a factor of 1.8, two times in three
NOISE_LOG_SD = 0.08  # scatter of one run's median step on a shared machine
LEAST_SHARE = 0.02  # components below this share of the step do not steer the fit


@dataclass(frozen=True, slots=True)
class Observation:
    """One configuration: its forecast terms and its measured components, both in seconds per step.

    `terms` maps component to term to seconds; `measured` maps component to seconds; `position` places the
    configuration (logs of its width, depth, ...) for the distance that widens intervals.
    """

    terms: Mapping[str, Mapping[str, float]]
    measured: Mapping[str, float]
    position: tuple[float, ...]


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

    def seconds(self, terms: Mapping[str, float]) -> float:
        """The sum of one component's terms, each times its multiplier."""
        return sum(self.multipliers.get(term, 1.0) * value for term, value in terms.items())

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


def local_calibration_from_json(data: Mapping[str, Any]) -> LocalCalibration:
    """The calibration that `LocalCalibration.to_json` wrote."""
    positions = tuple(tuple(float(x) for x in position) for position in data["positions"])
    return LocalCalibration(dict(data["multipliers"]), dict(data["spreads"]), positions)


def fit_local(observations: Sequence[Observation], total: str = "step_time") -> LocalCalibration:
    """Multipliers from all observations; spreads from leaving each out in turn.

    The spread of a component is the smallest value that covers a 90 % share of one more observation if they are
    exchangeable (split conformal prediction, Lei et al. 2018, section 2.2, with jackknife residuals); `total` names the
    spread of the components' sum.
    """
    multipliers = _fit(observations)
    residuals: dict[str, list[float]] = {}
    for index, left_out in enumerate(observations):
        others = [*observations[:index], *observations[index + 1 :]]
        fitted = LocalCalibration(_fit(others))
        for component, error in _log_errors(fitted, left_out, total).items():
            residuals.setdefault(component, []).append(abs(error))
    spreads = {component: conformal_quantile(errors) for component, errors in residuals.items()}
    return LocalCalibration(multipliers, spreads, tuple(observation.position for observation in observations))


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


def _fit(observations: Sequence[Observation]) -> dict[str, float]:
    """Multipliers that minimise squared log residuals of the components plus the prior, by damped Gauss-Newton."""
    names = sorted({term for observation in observations for terms in observation.terms.values() for term in terms})
    rows = [
        (np.array([terms.get(name, 0.0) for name in names]), observation.measured[component], weight)
        for observation in observations
        for component, terms in observation.terms.items()
        if (weight := _weight(observation, component)) > 0 and sum(terms.values()) > 0
    ]
    logs = np.zeros(len(names))
    if not rows:
        return dict.fromkeys(names, 1.0)
    seconds = np.array([row[0] for row in rows])
    measured = np.array([row[1] for row in rows])
    weights = np.array([row[2] for row in rows])
    for _ in range(40):
        parts = seconds * np.exp(logs)
        forecast = parts.sum(axis=1)
        jacobian = parts / forecast[:, None] * weights[:, None] / NOISE_LOG_SD
        residual = (np.log(measured) - np.log(forecast)) * weights / NOISE_LOG_SD
        normal = jacobian.T @ jacobian + np.eye(len(names)) / PRIOR_LOG_SD**2
        step = np.linalg.solve(normal, jacobian.T @ residual - logs / PRIOR_LOG_SD**2)
        logs = logs + np.clip(step, -0.7, 0.7)
        if float(np.max(np.abs(step))) < 1e-7:
            break
    return {name: float(value) for name, value in zip(names, np.exp(logs), strict=True)}


def _weight(observation: Observation, component: str) -> float:
    """How much a component steers the fit: by its share of the step, since a small one's logarithm is mostly noise."""
    measured = observation.measured.get(component, 0.0)
    total = sum(observation.measured.values())
    share = measured / total if total > 0 else 0.0
    return min(1.0, share / 0.2) ** 0.5 if share >= LEAST_SHARE else 0.0


def _log_errors(calibration: LocalCalibration, observation: Observation, total: str) -> dict[str, float]:
    forecast = {component: calibration.seconds(terms) for component, terms in observation.terms.items()}
    errors = {
        component: math.log(observation.measured[component] / seconds)
        for component, seconds in forecast.items()
        if seconds > 0 and _weight(observation, component) > 0
    }
    measured_total = sum(observation.measured.values())
    if measured_total > 0 and sum(forecast.values()) > 0:
        errors[total] = math.log(measured_total / sum(forecast.values()))
    return errors
