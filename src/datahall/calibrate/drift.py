"""How the pace of a shared machine moved while runs were measured, from readings of a reference between them.

A reading is the time of one small fixed piece of work.  Its logarithm is taken to be a mean, plus a drift that forgets
itself within a minute (an Ornstein-Uhlenbeck process: Rasmussen and Williams 2006, section B.2), plus what lasts no
longer than a run.  How large each is, the readings' likelihood says, averaged over a few sizes: a handful of readings
cannot tell one of them.  Where readings only scatter, hardly anything is divided out.  Nothing here takes a reading.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DRIFTS = (0.0, 0.02, 0.04, 0.07, 0.11, 0.17, 0.27, 0.43)  # standard deviations of the logarithm
_FLEETING = (0.01, 0.03, 0.06, 0.12, 0.24)
_MEMORY_S = 60.0  # after which a drift is forgotten to an e-th: neighbours' jobs come and go within minutes
_FEWEST = 4  # readings of a kind that a drift is looked for in

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reading:
    """When, on how many cores at once, and in how many seconds the reference's work was done."""

    time_s: float
    cores: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Drift:
    """Readings, and what they say: standard deviations of the drift's logarithm and of what is fleeting.

    Each number of cores has a mean of its own; the rest they share.
    """

    readings: tuple[Reading, ...] = ()
    log_sd: float = 0.0
    fleeting_log_sd: float = _FLEETING[0]

    def level(self, cores: int, time_s: float) -> tuple[float, float]:
        """Logarithm of the reference's seconds at a moment, and how unsure it is (standard deviation), `cores` busy."""
        own = self._like(cores)
        if not own:
            return 0.0, 0.0
        times, logs = _columns(own)
        usual, weights = _explained(times, logs, self)
        near = self.log_sd**2 * np.exp(-np.abs(times - time_s) / _MEMORY_S)
        unsure = self.log_sd**2 - near @ np.linalg.solve(_covariance(times, self), near)
        return usual + float(near @ weights), math.sqrt(max(0.0, float(unsure)))

    def usual(self, cores: int) -> float:
        """The mean of that logarithm over all readings."""
        own = self._like(cores)
        return _explained(*_columns(own), self)[0] if own else 0.0

    def ahead_log_sd(self) -> float:
        """How far the pace of a later run may lie from that mean: its drift, and how badly few readings know a mean."""
        if not self.log_sd:
            return 0.0
        times, _ = _columns(self._like(1))
        return math.sqrt(self.log_sd**2 + 1.0 / _certainty(times, self))

    def moved(self) -> tuple[float, float]:
        """How far the pace moved from its mean, as shares: the slowest reading (below 0) and the fastest."""
        logs = [self.usual(one.cores) - self.level(one.cores, one.time_s)[0] for one in self.readings]
        return math.expm1(min(logs, default=0.0)), math.expm1(max(logs, default=0.0))

    def to_json(self) -> dict[str, Any]:
        """Readings and what they say as plain JSON values."""
        return {
            "log_sd": self.log_sd,
            "fleeting_log_sd": self.fleeting_log_sd,
            "readings": [{"time_s": one.time_s, "cores": one.cores, "seconds": one.seconds} for one in self.readings],
        }

    def _like(self, cores: int) -> list[Reading]:
        """Readings on as many cores, or on the next number above that was read, or on the most."""
        read = sorted({one.cores for one in self.readings})
        nearest = next((one for one in read if one >= cores), read[-1] if read else 0)
        return [one for one in self.readings if one.cores == nearest]


def drift_of(readings: Sequence[Reading]) -> Drift:
    """The drift behind `readings`: variances averaged by their restricted likelihood (means are not known before)."""
    kinds = [[one for one in readings if one.cores == cores] for cores in sorted({one.cores for one in readings})]
    columns = [_columns(kind) for kind in kinds if len(kind) >= _FEWEST]
    if not columns:
        return Drift(tuple(readings))
    sizes = np.array(list(itertools.product(_DRIFTS, _FLEETING)))
    likelihoods = np.array(
        [sum(_log_likelihood(times, logs, Drift((), *pair)) for times, logs in columns) for pair in sizes]
    )
    weights = np.exp(likelihoods - likelihoods.max())
    log_sd, fleeting = np.sqrt(weights @ sizes**2 / weights.sum())
    return Drift(tuple(readings), float(log_sd), float(fleeting))


def _columns(readings: Sequence[Reading]) -> tuple[Floats, Floats]:
    return np.array([one.time_s for one in readings]), np.log([one.seconds for one in readings])


def _covariance(times: Floats, drift: Drift) -> Floats:
    apart = np.abs(times[:, None] - times[None, :])
    return drift.log_sd**2 * np.exp(-apart / _MEMORY_S) + drift.fleeting_log_sd**2 * np.eye(len(times))


def _explained(times: Floats, logs: Floats, drift: Drift) -> tuple[float, Floats]:
    """The mean by generalised least squares, and the covariance's inverse times what is left of `logs`."""
    covariance, ones = _covariance(times, drift), np.ones(len(times))
    whole, single = np.linalg.solve(covariance, np.column_stack([ones, logs])).T
    usual = float(ones @ single / (ones @ whole))
    return usual, single - usual * whole


def _log_likelihood(times: Floats, logs: Floats, drift: Drift) -> float:
    usual, weights = _explained(times, logs, drift)
    size = float(np.linalg.slogdet(_covariance(times, drift))[1])
    return -0.5 * (float((logs - usual) @ weights) + size + math.log(_certainty(times, drift)))


def _certainty(times: Floats, drift: Drift) -> float:
    """One over the variance of the mean."""
    ones = np.ones(len(times))
    return float(ones @ np.linalg.solve(_covariance(times, drift), ones))
