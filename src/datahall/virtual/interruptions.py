"""A long run with failures, event by event: the check on the closed formulas of `failures`, and what they leave out.

The draws come from outside.  A checkpoint stalls the loop for `stall_s` and is committed `write_s` after it began; a
failure before the commit falls back to the one before, which the formulas (stall and write the same) do not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interrupted:
    """How a run went: seconds on the wall, failures, and seconds of work that was done more than once."""

    wall_s: float
    failures: int
    repeated_s: float


def run_with_failures(
    work_s: float, interval_s: float, stall_s: float, write_s: float, restart_s: float, until_failure_s: Iterator[float]
) -> Interrupted:
    """Play `work_s` of work with a checkpoint after every `interval_s`; `until_failure_s` draws times to failure.

    Failures also strike during a stall and during a restart, which then begins anew.
    """
    wall = done = repeated = 0.0
    committed = 0.0  # work that a restart finds
    pending: tuple[float, float] | None = None  # (time of commit, work in it)
    failures = 0
    fails_at = next(until_failure_s)
    while done < work_s:
        target = min(work_s, done + interval_s)
        stall = stall_s if target < work_s else 0.0
        ends = wall + (target - done) + stall
        if ends <= fails_at:
            if pending is not None and pending[0] <= ends:
                committed, pending = pending[1], None
            began = ends - stall
            wall, done = ends, target
            if stall or write_s:
                # one background save at a time: the loop has waited for the one before
                wall = max(wall, pending[0]) if pending is not None else wall
                committed = pending[1] if pending is not None else committed
                pending = (max(wall, began + max(write_s, stall)), done)
            else:
                committed = done
            continue
        if pending is not None and pending[0] <= fails_at:
            committed = pending[1]
        pending = None
        reached = min(target, done + max(0.0, fails_at - wall))
        repeated += reached - committed
        done = committed
        wall, fails_at, times = _restarted(fails_at, restart_s, until_failure_s)
        failures += times
    return Interrupted(wall, failures, repeated)


def _restarted(failed_at: float, restart_s: float, until_failure_s: Iterator[float]) -> tuple[float, float, int]:
    """When work goes on after the failure at `failed_at`, when the next one comes, and failures until then."""
    times = 1
    fails_at = failed_at + next(until_failure_s)
    while failed_at + restart_s > fails_at:
        times += 1
        failed_at = fails_at
        fails_at = failed_at + next(until_failure_s)
    return failed_at + restart_s, fails_at, times
