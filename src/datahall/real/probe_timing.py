"""Time a call until its interval is known, and fit latency and rate to times by size.

It repeats; it does not decide what to measure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datahall.base.line import fit_line
from datahall.real.measure import median, median_interval

KNOWN_SHARE = 0.03  # an interval is known when it is narrower than this to either side
_FEWEST = 7
_LEAST_LATENCY_S, _LEAST_S_PER_BYTE = 1e-9, 1e-15  # what a busy machine may make of a line's ends


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: the median, its 90 % interval, and how often it was repeated."""

    seconds: float
    low: float
    high: float
    repeats: int

    def to_json(self) -> dict[str, Any]:
        """The timing as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AlphaBeta:
    """`latency_s` + bytes / `bytes_per_s`, fitted on half of the sizes; errors are of the other half (shares)."""

    latency_s: float
    bytes_per_s: float
    median_error_share: float
    worst_error_share: float

    def seconds(self, count: float) -> float:
        """What `count` bytes take."""
        return self.latency_s + count / self.bytes_per_s


def time_call(call: Callable[[], Any], budget_s: float, setup: Callable[[], Any] | None = None) -> Timing:
    """Repeat `call` until the interval of its median is known or `budget_s` is used up.

    Short calls are timed in groups, so that the clock does not matter.  `setup` runs untimed before each group.
    """
    call()
    inner = _group_size(call)
    taken: list[float] = []
    until_s = time.perf_counter() + budget_s
    while True:
        if setup is not None:
            setup()
        began_s = time.perf_counter()
        for _ in range(inner):
            call()
        taken.append((time.perf_counter() - began_s) / inner)
        now_s = time.perf_counter()
        if (len(taken) >= _FEWEST and (now_s > until_s or _known(taken))) or (
            len(taken) >= 2 and now_s > until_s + 3 * budget_s
        ):
            low, high = median_interval(taken)
            return Timing(median(taken), low, high, len(taken) * inner)


def time_together(call: Callable[[], Any], repeats: int, setup: Callable[[], Any] | None = None) -> Timing:
    """Time exactly `repeats` calls, the same number on every worker, since a collective needs all of them."""
    taken: list[float] = []
    for _ in range(repeats):
        if setup is not None:
            setup()
        began_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began_s)
    low, high = median_interval(taken)
    return Timing(median(taken), low, high, repeats)


def fit_alpha_beta(sizes: Sequence[float], seconds: Sequence[float], *, refit: bool = False) -> AlphaBeta:
    """Fit on every other size, judge on those between.  Relative errors are made small, so small messages count.

    `refit` gives the constants of a fit to all sizes, where there are few; the errors stay those of the half.
    """
    counts, times = np.asarray(sizes, dtype=float), np.asarray(seconds, dtype=float)
    fit, judge = slice(0, None, 2), slice(1, None, 2)
    latency, per_byte = fit_line(counts[fit], times[fit])
    errors = np.abs((latency + counts[judge] * per_byte) / times[judge] - 1)
    if refit:
        latency, per_byte = fit_line(counts, times)
    latency, per_byte = max(latency, _LEAST_LATENCY_S), max(per_byte, _LEAST_S_PER_BYTE)
    return AlphaBeta(latency, 1 / per_byte, float(np.median(errors)), float(errors.max()))


def _group_size(call: Callable[[], Any]) -> int:
    began_s = time.perf_counter()
    call()
    once_s = max(time.perf_counter() - began_s, 1e-7)
    return max(1, min(10_000, int(1e-3 / once_s)))


def _known(taken: Sequence[float]) -> bool:
    low, high = median_interval(taken)
    middle = median(taken)
    return high - middle < KNOWN_SHARE * middle and middle - low < KNOWN_SHARE * middle
