"""DeepSpeed's log: its throughput lines and, with wall_clock_breakdown, its timers.

Timers are milliseconds of one step (or one micro-step, then named so); `step` in them is the optimiser's.  Its rates
count its own batch, in which tensor ranks have one each: where the log prints that batch, they become seconds by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from datahall.ui.logs.steps import LoggedStep, TrainingLog, json_record, number

PROGRAM = "deepspeed"
_RATE = re.compile(
    r"(?:global_step=(?P<step>\d+)|stop\]\s*\d+/(?P<old>\d+)),\s*RunningAvgSamplesPerSec=(?P<mean>[\d.]+),"
    r"\s*CurrSamplesPerSec=(?P<now>[\d.]+)(?:.*?MaxMemAllocated=(?P<gib>[\d.]+)GB)?"
)
_BATCH = re.compile(r"\btrain_batch_size \.+ (?P<batch>\d+)\s*$")
_TIMES = re.compile(r"time \(ms\)\s*\|(?P<times>.*)")
_TIME = re.compile(r"(?P<name>[a-z_]+):\s*(?P<ms>[\d.]+)")
_PARTS = {
    "fwd": "forward",
    "forward": "forward",
    "bwd_inner": "backward",
    "backward_inner": "backward",
    "bwd_allreduce": "transfer",
    "backward_allreduce": "transfer",
    "step": "optimiser",
}
_HINT = 'Set "wall_clock_breakdown": true and it tells forward, backward, all-reduce and update apart.'


def read(lines: Iterable[str]) -> TrainingLog:
    """The steps that DeepSpeed logged."""
    steps: list[LoggedStep] = []
    parts: dict[str, float] = {}
    batch = 0
    for line in lines:
        if (match := _BATCH.search(line)) is not None:
            batch = int(match["batch"])
        elif (match := _TIMES.search(line)) is not None:
            found = {item["name"]: float(item["ms"]) / 1000 for item in _TIME.finditer(match["times"])}
            parts |= {_PARTS[name]: seconds for name, seconds in found.items() if name in _PARTS}
        elif (step := _step(line)) is not None:
            seconds = batch / step.samples_per_s if batch and step.samples_per_s else None
            steps.append(replace(step, seconds=seconds, global_batch=batch or None, parts=_components(parts)))
            parts = {}
    if steps and parts:
        steps[-1] = replace(steps[-1], parts=_components(parts) or steps[-1].parts)
    return TrainingLog(PROGRAM, tuple(steps), _HINT)


def _step(line: str) -> LoggedStep | None:
    record = json_record(line)
    if record is not None:
        rate = number(record.get("Train/Samples/samples_per_sec", record.get("CurrSamplesPerSec")))
        return None if rate is None else LoggedStep(int(record.get("global_step", 0)), samples_per_s=rate)
    match = _RATE.search(line)
    if match is None:
        return None
    gib = number(match["gib"]) if match["gib"] else None
    return LoggedStep(
        step=int(match["step"] or match["old"]),
        samples_per_s=float(match["now"]),
        memory_bytes=None if gib is None else gib * 2**30,  # it divides by 1024^3 and calls it GB
    )


def _components(parts: dict[str, float]) -> dict[str, float]:
    found = {name: seconds for name, seconds in parts.items() if name in ("transfer", "optimiser")}
    if "forward" in parts and "backward" in parts:
        found["compute"] = parts["forward"] + parts["backward"]
    return found
