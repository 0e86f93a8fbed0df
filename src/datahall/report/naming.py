"""One sentence on a compared run: which component differs most from its forecast, and how much nobody told.

For logs of other programs, which tell only some of a step's parts.  What binds a step is `bottleneck`'s, whether the
forecast holds `verdict`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from datahall.base.units import human_time
from datahall.report.bottleneck import MATTERS_SHARE, STEP_COMPONENTS, Bottleneck, ComparedRow
from datahall.report.verdict import JudgedRow
from datahall.report.words import percent

EXPLAINED_SHARE = 0.5  # of the step's difference: where the told parts explain less, the rest matters more


class NamedRow(JudgedRow, ComparedRow, Protocol):
    """What is looked at of a compared metric."""


class NamedRun(Protocol):
    """What is looked at of a comparison."""

    @property
    def components(self) -> Sequence[NamedRow]: ...
    @property
    def bottleneck(self) -> Bottleneck: ...


def named(compared: NamedRun, more: str = "") -> str:
    """Which component differs most; one that lies outside its interval goes before those within, however far off.

    Where the step is outside its interval and the told parts explain less than half of that, it is said that the rest
    is in others; `more` is how to have those told.
    """
    step = next(row for row in compared.components if row.name == "step_time")
    rows = [row for row in compared.components if row.name in STEP_COMPONENTS]
    if not rows:
        return "The log does not tell which component differs."
    worst, furthest, rest = _worst(compared, rows, step), max(rows, key=_off), _rest(rows, step)
    if worst is None and step.within_interval:
        close = f"lies within its interval or is off by less than {percent(MATTERS_SHARE)} of the step"
        return f"What is told apart {close}; {furthest.name} is furthest off, {_share(furthest, step)}."
    if worst is None and rest:
        return f"{rest} {more}".strip()
    named_row = worst or furthest
    told = f"{named_row.name} differs most{' of what is told apart' if rest else ''}: {_share(named_row, step)}"
    told += " than was forecast"
    if furthest is not named_row and furthest.within_interval:
        told += f"; {furthest.name}, within its interval, takes {_share(furthest, step)}"
    return f"{told}. {rest} {more if rest else ''}".strip()


def _worst(compared: NamedRun, rows: Sequence[NamedRow], step: NamedRow) -> NamedRow | None:
    """The row furthest off of those that matter and are outside their intervals; an effect does not hide its cause."""
    least_s = MATTERS_SHARE * step.measured
    worst = max((row for row in rows if not row.within_interval and _off(row) >= least_s), key=_off, default=None)
    cause = next((row for row in rows if row.name == compared.bottleneck.deviating), None)
    return cause if cause and worst and worst.excess else worst


def _rest(rows: Sequence[NamedRow], step: NamedRow) -> str:
    """What is said of the parts that nobody told; empty where those that are told explain the step well enough."""
    gap_s = step.measured - step.forecast
    explained = sum(row.measured - row.forecast for row in rows) / gap_s if gap_s else 1.0
    if step.within_interval or explained >= EXPLAINED_SHARE:
        return ""
    names, part = ", ".join(row.name for row in rows), percent(explained) if explained > 0 else "none"
    return (
        f"The step takes {human_time(abs(gap_s))} {_word(step)} than was forecast, and what is told apart ({names})"
        f" explains {part} of that: the rest is in parts which the log does not tell."
    )


def _off(row: NamedRow) -> float:
    return abs(row.measured - row.forecast)


def _word(row: NamedRow) -> str:
    return "more" if row.measured > row.forecast else "less"


def _share(row: NamedRow, step: NamedRow) -> str:
    return f"{percent(_off(row) / step.measured)} of the step {_word(row)}"
