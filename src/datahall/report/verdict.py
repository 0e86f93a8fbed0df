"""Judge a comparison: does the forecast hold, and if not, what failed.

The order of words says what weighs most: wrong counts, broken parity, errors that cancel, then a miss.  No tolerance is
taken from the measurement; they are the constants below and the forecast's own intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from datahall.base.units import human_time
from datahall.report.bottleneck import STEP_COMPONENTS
from datahall.report.words import words

TOTAL_TOLERANCE_SHARE = 0.10  # a total this close counts as good, whatever its interval
LARGE_SHARE = 0.10  # of the measured step: a component this large has to be right by itself


class JudgedRow(Protocol):
    """What is judged of a component."""

    @property
    def name(self) -> str: ...
    @property
    def forecast(self) -> float: ...
    @property
    def measured(self) -> float: ...
    @property
    def within_interval(self) -> bool: ...


class JudgedCount(Protocol):
    """What is judged of a count."""

    @property
    def name(self) -> str: ...
    @property
    def forecast(self) -> int | None: ...
    @property
    def measured(self) -> int | None: ...
    @property
    def decided_by(self) -> str: ...
    @property
    def equal(self) -> bool | None: ...


class JudgedParity(Protocol):
    """What is judged of parity."""

    @property
    def holds(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` is holds, misses, cancels, differs (parity) or miscounts; `reasons` says why, one sentence each."""

    word: str
    reasons: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the forecast stands."""
        return self.word == "holds"


def judge(
    rows: Sequence[JudgedRow],
    counts: Sequence[JudgedCount],
    parity: JudgedParity | None = None,
    deviating: str = "",
) -> Verdict:
    """The verdict on compared rows and counts; `deviating` is the component that the bottleneck named, if any."""
    wrong, missed = miscounted(counts), outside(_judged(rows, deviating))
    cancelling = cancelling_errors(rows)
    differs = (
        ("the plan does not learn what one process learns on the same batch",) if parity and not parity.holds else ()
    )
    found = [("miscounts", wrong), ("differs", differs), ("cancels", cancelling), ("misses", missed)]
    failed = [(word, reasons) for word, reasons in found if reasons]
    if not failed:
        return Verdict("holds")
    return Verdict(failed[0][0], tuple(reason for _, reasons in failed for reason in reasons))


def miscounted(counts: Sequence[JudgedCount]) -> tuple[str, ...]:
    """The counts that datahall decides and that are not equal, in words."""
    return tuple(
        f"{count.name}: {count.forecast:,} forecast, {count.measured:,} counted"
        for count in counts
        if count.decided_by == "datahall" and count.equal is False
    )


def outside(rows: Sequence[JudgedRow]) -> tuple[str, ...]:
    """The rows that are outside their intervals, in words."""
    return tuple(
        f"{words(row.name)}: measured {human_time(row.measured)}, outside the interval around"
        f" {human_time(row.forecast)}"
        for row in rows
        if not row.within_interval
    )


def cancelling_errors(rows: Sequence[JudgedRow]) -> tuple[str, ...]:
    """The component errors that a good total hides, in words; empty when there are none.

    The total is good: the step time lies in its interval or within 10 %.  A large component (forecast or measured at
    least 10 % of the measured step) is outside its own interval, and errors of the opposite sign in the other
    components make up for at least half of its error.
    """
    total = next((row for row in rows if row.name == "step_time"), None)
    if total is None or total.measured <= 0 or not _good(total):
        return ()
    errors = {row.name: row.forecast - row.measured for row in rows if row.name in STEP_COMPONENTS}
    found: list[str] = []
    for row in rows:
        error = errors.get(row.name, 0.0)
        if row.within_interval or not error or not _large(row, total.measured):
            continue
        opposite = sum(abs(other) for other in errors.values() if other * error < 0)
        if opposite >= abs(error) / 2:
            side = "above" if error > 0 else "below"
            found.append(
                f"{row.name}: forecast {100 * abs(error) / total.measured:.0f} % of the step {side} what was measured, "
                "hidden in a good total by errors of the other sign"
            )
    return tuple(found)


def _judged(rows: Sequence[JudgedRow], deviating: str) -> list[JudgedRow]:
    """The rows that decide: the step time, each component that is large in the step, and the one that deviates."""
    step_s = next((row.measured for row in rows if row.name == "step_time"), 0.0)
    always = {"step_time", deviating}
    return [row for row in rows if row.name in always or (row.name in STEP_COMPONENTS and _large(row, step_s))]


def _large(row: JudgedRow, step_s: float) -> bool:
    return max(row.forecast, row.measured) >= LARGE_SHARE * step_s


def _good(total: JudgedRow) -> bool:
    return total.within_interval or abs(total.forecast - total.measured) <= TOTAL_TOLERANCE_SHARE * total.measured
