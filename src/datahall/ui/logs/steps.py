"""What a training log says, whoever wrote it: logged steps, in base units.

A field that a log does not give is None; nothing is filled in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

ANSI = re.compile(r"\x1b\[[0-9;]*m")
_WARM_UP_SHARE = 0.1
_PROFILED = "It logs no more of a step; a trace of the program's profiler shows where its time goes."


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """One logged step (or the mean over the steps since the last one).  `step` is 0 where the log does not number it.

    `seconds` is per optimiser step.  Programs that log a rate instead give one of `tokens_per_s_per_device`,
    `samples_per_s`.  `parts` are seconds per step of datahall's components, as far as the log tells them apart.
    """

    step: int
    seconds: float | None = None
    tokens_per_s_per_device: float | None = None
    samples_per_s: float | None = None
    memory_bytes: float | None = None
    global_batch: int | None = None
    loss: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The steps of one log, and the program that wrote it.  `hint` says how to make that program tell more.

    `lacks` says of a log without steps, which that program wrote all the same, what it lacks.
    """

    program: str
    steps: tuple[LoggedStep, ...]
    hint: str = ""
    lacks: str = ""

    @property
    def more(self) -> str:
        """How to have more told of a step: `hint`, unless that is on."""
        return _PROFILED if any(step.parts for step in self.steps) else self.hint

    def steady(self) -> tuple[LoggedStep, ...]:
        """The steps without the first tenth (at least the first one, where there are several)."""
        skipped = max(1, round(_WARM_UP_SHARE * len(self.steps))) if len(self.steps) > 1 else 0
        return self.steps[skipped:]


def counted_once(log: TrainingLog) -> TrainingLog:
    """`log` with each numbered step once, as it was logged last (by another rank, or after a restart).

    Its memory is the most that any rank logged of it.
    """
    steps: dict[object, LoggedStep] = {}
    for place, step in enumerate(log.steps):
        key = step.step or f"unnumbered {place}"
        held = [one.memory_bytes for one in (steps.get(key), step) if one and one.memory_bytes is not None]
        steps[key] = replace(step, memory_bytes=max(held, default=None))
    return replace(log, steps=tuple(steps.values()))


def middle(values: list[float | None]) -> float | None:
    """The median of what was logged; None where nothing was."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def json_record(line: str) -> dict[str, Any] | None:
    """The JSON object on a line, nested "metrics" opened; None where there is none."""
    text = line.strip()
    if not text.startswith("{"):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    inner: Any = record.get("metrics")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return {**record, **inner} if isinstance(inner, dict) else record  # pyright: ignore[reportUnknownVariableType]


def number(value: Any) -> float | None:
    """`value` as a number, thousands separators dropped; None where it is none."""
    try:
        return float(str(value).replace(",", ""))
    except ValueError:
        return None
