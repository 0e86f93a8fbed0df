"""torchtitan's log: its console lines, or JSON lines with the names of its metrics.

`tps` is tokens per second and device.  With JSON the time that the loop waited for data is known too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from datahall.ui.logs.steps import LoggedStep, TrainingLog, json_record, number

PROGRAM = "torchtitan"
_LINE = re.compile(
    r"(?<!validate )step:\s*(?P<step>\d+)\s+loss:\s*(?P<loss>\S+).*?"
    r"memory:\s*(?P<gib>[\d.]+)GiB.*?(?:tps|wps):\s*(?P<tps>[\d,]+)"
)
_HINT = "Log its metrics as JSON (time_metrics/data_loading(s)) and the wait for data is told apart."


def read(lines: Iterable[str]) -> TrainingLog:
    """The steps that torchtitan logged."""
    steps = [step for line in lines if (step := _from_json(line) or _from_text(line))]
    return TrainingLog(PROGRAM, tuple(steps), _HINT)


def _from_text(line: str) -> LoggedStep | None:
    match = _LINE.search(line)
    if match is None:
        return None
    return LoggedStep(
        step=int(match["step"]),
        tokens_per_s_per_device=number(match["tps"]),
        memory_bytes=float(match["gib"]) * 2**30,
        loss=number(match["loss"]),
    )


def _from_json(line: str) -> LoggedStep | None:
    record = json_record(line)
    if record is None or "throughput(tps)" not in record:
        return None
    gib, loading = number(record.get("memory/max_reserved(GiB)")), number(record.get("time_metrics/data_loading(s)"))
    return LoggedStep(
        step=int(record.get("step", record.get("_step", 0))),
        seconds=number(record.get("time_metrics/end_to_end(s)")),
        tokens_per_s_per_device=number(record["throughput(tps)"]),
        memory_bytes=None if gib is None else gib * 2**30,
        loss=number(record.get("loss_metrics/global_avg_loss")),
        parts={} if loading is None else {"input": loading},
    )
