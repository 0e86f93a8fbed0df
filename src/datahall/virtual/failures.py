"""Failures and checkpoints of a long run: how often to write, and what of the time is left for steps.

Closed formulas; plain numbers or arrays.  What a checkpoint takes is the storage room's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.base.formula import formula

_MOST = 300.0  # distances of failures in one piece of work: nobody waits e^300 times as long


@formula(
    equation="T = sqrt(2 d M)",
    source="Young 1974, A first order approximation to the optimum checkpoint interval, CACM 17(9)",
    holds="d much smaller than M; exponential failures",
)
def young_interval_s(stall_s: Any, mean_between_failures_s: Any) -> Any:
    """Seconds of work between checkpoints that lose the least, to first order."""
    return np.sqrt(2.0 * stall_s * mean_between_failures_s)


@formula(
    equation="T = sqrt(2 d M) (1 + 1/3 sqrt(d/2M) + d/18M) - d, and M where d >= 2M",
    source="Daly 2006, A higher order estimate of the optimum checkpoint interval, FGCS 22, equation 37",
    holds="exponential failures; restart time does not change the optimum",
)
def daly_interval_s(stall_s: Any, mean_between_failures_s: Any) -> Any:
    """Seconds of work between checkpoints that lose the least, to higher order."""
    ratio = stall_s / (2.0 * mean_between_failures_s)
    interval = young_interval_s(stall_s, mean_between_failures_s) * (1.0 + np.sqrt(ratio) / 3.0 + ratio / 9.0) - stall_s
    return np.where(stall_s < 2.0 * mean_between_failures_s, interval, mean_between_failures_s)


@formula(
    equation="T = max(Daly's for what a save costs training, seconds of a save)",
    source="ours: a save in the background costs little, and begins when the one before it has ended",
    holds="as Daly's; the work lost between the call and the commit is not in it",
)
def background_interval_s(cost_s: Any, write_s: Any, mean_between_failures_s: Any) -> Any:
    """Seconds of work between checkpoints that are written in the background."""
    return np.maximum(daly_interval_s(cost_s, mean_between_failures_s), write_s)


@formula(
    equation="wall/work = M e^(R/M) (e^((T+d)/M) - 1) / T",
    source="Daly 2006, equation 13 (complete model), per second of work",
    holds="exponential failures of mean distance M; each costs R to restart and the work since the last checkpoint",
)
def wall_over_work(interval_s: Any, stall_s: Any, restart_s: Any, mean_between_failures_s: Any) -> Any:
    """Expected wall seconds per second of useful work; infinite M gives (T + d) / T."""
    rare = 1.0 / np.asarray(mean_between_failures_s, dtype=float)
    segment = (interval_s + stall_s) * rare
    plain = (interval_s + stall_s) / interval_s
    grown = (
        np.exp(np.minimum(restart_s * rare, _MOST))
        * np.expm1(np.minimum(segment, _MOST))
        / np.maximum(rare * interval_s, 1e-300)
    )
    return np.where(rare > 1e-300, grown, plain)
