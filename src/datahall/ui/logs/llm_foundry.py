"""llm-foundry's log (Composer's): blocks of metrics under `[batch=...]`, or JSON lines with the same names.

Rates are means over a window of batches; memory is in GB of 10^9 bytes, as Composer's monitor counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from datahall.ui.logs.steps import LoggedStep, TrainingLog, json_record, number

PROGRAM = "llm-foundry"
_BLOCK = re.compile(r"\[batch=(?P<step>\d+)/\d+\]")
_METRIC = re.compile(r"Train (?P<name>[\w/\-]+):\s*(?P<value>[-+\d.eE]+)")
_FEW_DIGITS = 0.05  # batches a second; rates have four decimals, so that slower steps are told better by samples
_HINT = "Composer logs rates, not components; profile with its Profiler to tell them apart."


def read(lines: Iterable[str]) -> TrainingLog:
    """The batches that Composer logged with a rate."""
    steps: list[LoggedStep] = []
    batch = 0
    block: dict[str, float | None] = {}
    for line in lines:
        record = json_record(line)
        if record is not None:
            known = {name: number(value) for name, value in record.items() if "/" in name}
            _close(steps, int(record.get("batch", record.get("step", record.get("time/batch", 0)))), known)
            continue
        if (match := _BLOCK.search(line)) is not None:
            _close(steps, batch, block)
            batch, block = int(match["step"]), {}
        for match in _METRIC.finditer(line):
            block[match["name"]] = number(match["value"])
    _close(steps, batch, block)
    return TrainingLog(PROGRAM, tuple(steps), _HINT)


def _close(steps: list[LoggedStep], batch: int, block: dict[str, float | None]) -> None:
    rate = block.get("throughput/batches_per_sec")
    if not rate:
        return
    gigabytes = block.get("memory/peak_reserved_mem")
    samples = block.get("throughput/samples_per_sec")
    steps.append(
        LoggedStep(
            step=batch,
            seconds=1.0 / rate if rate > _FEW_DIGITS or not samples else None,
            tokens_per_s_per_device=block.get("throughput/device/tokens_per_sec"),
            samples_per_s=samples,
            memory_bytes=None if gigabytes is None else gigabytes * 1e9,
            global_batch=round(samples / rate) if samples and rate > _FEW_DIGITS else None,
            loss=block.get("loss/train/total"),
        )
    )
