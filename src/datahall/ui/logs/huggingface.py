"""Hugging Face Trainer's log: progress bars, printed dictionaries, `trainer_state.json`, or JSON lines of them.

Its own clock in its records goes first (`trainer_clock`), then the bars, which give whole seconds of each stretch of
steps; the closing summary gives the mean with start-up in it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from datahall.ui.logs.steps import LoggedStep, TrainingLog, json_record, number
from datahall.ui.logs.trainer_clock import missing, stretches

PROGRAM = "huggingface-trainer"
_BAR = re.compile(  # of steps: bars of data that is fetched or prepared count examples or bytes
    r"(?P<step>\d+)/(?P<all>\d+)\s*\[(?P<elapsed>(?:\d+:)?\d+:\d+)<[^\]\n]*?(?:s/it|it/s)"
)
_HINT = "The Trainer times no component; `datahall.real.meter_huggingface.MeterCallback` among its callbacks does."
_LEAST_STRETCH_S = 20  # bars count whole seconds: shorter stretches would be rounding


def read(lines: Iterable[str]) -> TrainingLog:
    """The steps that the Trainer logged: those of its clock or its bars where there are any, else of its summary."""
    every = list(lines)
    text = "\n".join(every)
    records = _state(text) or [record for line in every if (record := _record(line)) is not None]
    if steps := stretches(records):
        return TrainingLog(PROGRAM, tuple(steps), _HINT)
    steps = [LoggedStep(step, seconds=seconds) for step, seconds in _bars(text)] or _from_summary(records)
    if not steps:
        lacks, hint = missing(records)
        return TrainingLog(PROGRAM, (), hint, lacks)
    losses = [value for record in records if (value := number(record.get("loss"))) is not None]
    return TrainingLog(PROGRAM, (*steps[:-1], replace(steps[-1], loss=losses[-1] if losses else None)), _HINT)


def _from_summary(records: list[dict[str, Any]]) -> list[LoggedStep]:
    for record in reversed(records):
        rate = number(record.get("train_steps_per_second"))
        if rate:
            runtime = number(record.get("train_runtime")) or 0.0
            samples = number(record.get("train_samples_per_second"))
            return [LoggedStep(round(runtime * rate), seconds=None if samples else 1.0 / rate, samples_per_s=samples)]
    return []


def _bars(text: str) -> list[tuple[int, float]]:
    """Step and seconds per step of each stretch of at least 20 s of the progress bar that went on for the longest.

    That is training's: those of evaluations stand still meanwhile.
    """
    seen: dict[int, list[tuple[int, int]]] = {}
    for match in _BAR.finditer(text):
        parts = [int(part) for part in match["elapsed"].split(":")]
        seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
        seen.setdefault(int(match["all"]), []).append((int(match["step"]), seconds))
    if not seen:
        return []
    bars = sorted(set(max(seen.values(), key=lambda points: max(seconds for _, seconds in points))))
    found: list[tuple[int, float]] = []
    start = bars[0]
    for step, seconds in bars[1:]:
        if seconds - start[1] >= _LEAST_STRETCH_S and step > start[0]:
            found.append((step, (seconds - start[1]) / (step - start[0])))
            start = (step, seconds)
    return found


def _record(line: str) -> dict[str, Any] | None:
    record = json_record(line)
    if record is not None:
        return record
    start = line.find("{'")
    if start < 0 or "}" not in line:
        return None
    try:
        value: Any = ast.literal_eval(line[start : line.rindex("}") + 1])
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _state(text: str) -> list[dict[str, Any]]:
    """The log history of a `trainer_state.json`."""
    try:
        state: Any = json.loads(text)
    except ValueError:
        return []
    return list(state.get("log_history", [])) if isinstance(state, dict) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
