"""Where a number comes from, and the rule that a result is only as good as its weakest input.

A label orders origins from the strongest (`measured`) to the weakest (`assumed`).  It says nothing about precision:
that is the interval's work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Label(IntEnum):
    """Origin of a number; larger is weaker."""

    MEASURED = 0  # observed here, on this machine
    CALIBRATED = 1  # fitted here, judged on configurations that the fit did not see
    TRANSFERRED = 2  # fitted elsewhere, on other runs
    CATALOGUE = 3  # a data sheet or a published figure
    ASSUMED = 4  # nobody stated it: a default, marginalised where it matters

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, text: str) -> Label:
        """The label that `text` names, as it is written in files."""
        return cls[text.upper()]


def weakest(labels: Iterable[Label]) -> Label:
    """The label of a result made from numbers with these labels; of none, `measured`."""
    return max(labels, default=Label.MEASURED)


@dataclass(frozen=True, slots=True)
class Fact:
    """A value with its unit, its source and the day it was read.

    `value` is in base units (bytes, seconds, FLOP/s, W, USD); `unit` names them; `date` is ISO 8601.
    """

    value: Any
    unit: str
    source: str
    date: str
    label: Label = Label.CATALOGUE
