"""Megatron-LM's log: the iteration lines, the timers under them, and the memory that each rank reports once.

Timers are there with --timing-log-level 1 (or 2); the slowest rank's value is taken.  Some lie inside others: the wait
for gradients inside the passes, the gathering of parameters inside the optimiser's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from datahall.ui.logs.steps import LoggedStep, TrainingLog, json_record, number

PROGRAM = "megatron-lm"
_ITERATION = re.compile(r"iteration\s+(?P<step>\d+)\s*/\s*\d+\s*\|")
_FIELD = re.compile(r"\|\s*(?P<name>[a-z][\w ()/\-]*?):\s*(?P<value>[-+\d.eE]+)")
_TIMER = re.compile(r"^\s+(?P<name>[a-z][a-z\-]+)\s*\.*:\s*(?:\((?P<least>[\d.]+),\s*)?(?P<most>[\d.]+)\)?\s*$")
_MEMORY = re.compile(r"max (?:allocated|reserved):\s*([\d.]+)")  # what is reserved holds what is allocated
_TIMERS = ("forward-backward", "all-grads-sync", "params-all-gather", "optimizer", "batch-generator")
_HINT = "Start it with --timing-log-level 2 --timing-log-option minmax and its timers tell the components apart."


def read(lines: Iterable[str]) -> TrainingLog:
    """The iterations that Megatron-LM logged."""
    steps: list[LoggedStep] = []
    memory: float | None = None
    timers: dict[str, float] = {}
    for line in lines:
        if "memory (MB)" in line and (held := _MEMORY.findall(line)):
            memory = max(memory or 0.0, *(float(value) * 2**20 for value in held))
        elif (match := _TIMER.match(line)) is not None and match["name"] in _TIMERS:
            timers[match["name"]] = float(match["most"]) / 1000
        elif (step := _iteration(line)) is not None:
            _close(steps, timers)
            steps.append(step)
    _close(steps, timers)
    return TrainingLog(PROGRAM, tuple(replace(step, memory_bytes=memory) for step in steps), _HINT)


def _iteration(line: str) -> LoggedStep | None:
    record = json_record(line)
    if record is not None:
        seconds = number(record.get("iteration-time"))
        return None if seconds is None else LoggedStep(int(record.get("iteration", record.get("_step", 0))), seconds)
    match = _ITERATION.search(line)
    if match is None:
        return None
    fields = {found["name"]: found["value"] for found in _FIELD.finditer(line)}
    milliseconds = number(fields.get("elapsed time per iteration (ms)"))
    batch = number(fields.get("global batch size"))
    return LoggedStep(
        step=int(match["step"]),
        seconds=None if milliseconds is None else milliseconds / 1000,
        global_batch=None if batch is None else int(batch),
        loss=number(fields.get("lm loss")),
    )


def _close(steps: list[LoggedStep], timers: dict[str, float]) -> None:
    """Give the timers that came after a step to it."""
    if steps and timers:
        steps[-1] = replace(steps[-1], parts=_parts(timers))
    timers.clear()


def _parts(timers: dict[str, float]) -> dict[str, float]:
    """Components, each without what lies inside its timer and has one of its own."""
    synced, gathered = timers.get("all-grads-sync", 0.0), timers.get("params-all-gather", 0.0)
    read = timers.get("batch-generator", 0.0)
    parts: dict[str, float] = {}
    if "forward-backward" in timers:
        parts["compute"] = max(0.0, timers["forward-backward"] - synced - read)
    if "optimizer" in timers:
        parts["optimiser"] = max(0.0, timers["optimizer"] - gathered)
    if "all-grads-sync" in timers or "params-all-gather" in timers:
        parts["transfer"] = synced + gathered
    if "batch-generator" in timers:
        parts["input"] = read
    return parts
