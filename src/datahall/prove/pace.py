"""Readings of the machine's pace between the runs of a proof, and what drift is made of them.

Forecasts are sealed without readings that come after them; those only say, beside the verdict, what drift explains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from datahall.base.result import Result
from datahall.base.score import HeldOutPoint
from datahall.calibrate.drift import Drift, Reading, drift_of
from datahall.compute.plan import ComputePlan
from datahall.real.pace import read_pace
from datahall.report.comparison import DriftRecord


@dataclass(frozen=True, slots=True)
class PaceLog:
    """The readings so far; every `read` adds one for each number of cores, and takes `budget_s` for each."""

    budget_s: float
    readings: list[Reading] = field(default_factory=list[Reading])

    def read(self) -> None:
        """Read the pace now."""
        for cores, timing in read_pace(self.budget_s).items():
            self.readings.append(Reading(time.monotonic(), cores, timing.seconds))

    def drift(self) -> Drift:
        """The drift behind all readings so far."""
        return drift_of(self.readings)


def middle_of(measured: Result) -> float:
    """The moment (monotonic seconds) in the middle of the steps of a run that has just ended."""
    return time.monotonic() - (measured.metrics["total_time"].value - measured.metrics["startup"].value) / 2.0


def busy_cores(compute: ComputePlan) -> int:
    """Cores that a plan keeps busy."""
    return compute.devices * compute.threads


def drift_record(
    whole: Drift, known: Drift, points: Sequence[HeldOutPoint], ran: Sequence[tuple[int, float]]
) -> DriftRecord:
    """What to say of the `whole` proof's drift: how far, and what it leaves of errors of forecasts that knew `known`.

    `ran` has the busy cores and the moment of each point's run.
    """
    errors: list[float] = []
    for point, (cores, moment_s) in zip(points, ran, strict=True):
        pace = math.exp(whole.level(cores, moment_s)[0] - known.usual(cores))
        errors.append(abs(point.forecast * pace / point.measured - 1.0))
    low, high = whole.moved()
    return DriftRecord(low, high, whole.log_sd, len(whole.readings), median(errors))
