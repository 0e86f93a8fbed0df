"""A made-up run for tests of the report: numbers from a seeded generator, shaped like a real folder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from datahall.base.event import Event
from datahall.base.label import Label
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.base.score import HeldOutPoint, score_heldout
from datahall.report.comparison import Comparison, Machine, ParityRecord, compare
from datahall.report.data import CarryOver, Memory

STEP_S = {"compute": 0.212, "transfer": 0.041, "waiting": 0.009, "input": 0.0021, "optimiser": 0.018}
NAME = "first <b>case</b> & more"


def sample_comparison(seed: int = 7, **changes: float) -> Comparison:
    """A comparison of a plausible forecast with a noisy measurement of it."""
    chance = random.Random(seed)
    forecast = sample_forecast()
    metrics: dict[str, Metric] = {}
    for name, metric in forecast.metrics.items():
        value = changes.get(name, metric.value * chance.lognormvariate(0.0, 0.05))
        metrics[name] = Metric(name, metric.unit, value, 0.985 * value, 1.015 * value, Label.MEASURED)
    if "step_time" not in changes:
        value = sum(metrics[name].value for name in STEP_S)
        metrics["step_time"] = Metric("step_time", "seconds", value, 0.985 * value, 1.015 * value, Label.MEASURED)
    measured = Result("real", metrics, {**forecast.counts, "collective_calls": 362})
    return compare(
        forecast, measured, 0.02, checkpoint_every_steps=20, seal_sha256="3f9c" * 16,
        machine=Machine(2, 0.12, 1.94, "x86_64"), parity=parity_record(), heldout=sample_heldout(),
    )  # fmt: skip


def parity_record(holds: bool = True) -> ParityRecord:
    """What a check of two workers against one process found."""
    return ParityRecord(20, 2, 3.1e-7 if holds else 0.02, 1e-4, 2.2e-6, 1e-3, 4e-6, True, holds)


def sample_forecast() -> Result:
    """A sealed forecast of a two-worker run."""
    seconds = {**STEP_S, "checkpoint": 0.34, "startup": 3.4, "step_time": sum(STEP_S.values()), "total_time": 41.0}
    widths = {"compute": 0.09, "transfer": 0.3, "waiting": 0.6, "input": 0.4, "checkpoint": 0.3, "startup": 0.25}
    metrics: dict[str, Metric] = {}
    for name, value in seconds.items():
        width = widths.get(name, 0.12)
        low, high = value * (1 - width), value * (1 + 1.2 * width)
        metrics[name] = Metric(name, "seconds", value, low, high, Label.CALIBRATED)
    metrics["peak_memory"] = Metric("peak_memory", "bytes", 161e6, 146e6, 178e6, Label.CALIBRATED)
    counts = {
        "samples": 3840, "tokens": 983_040, "steps": 120, "matmul_flops": 22_649_241_600_000,
        "attention_flops": 1_207_959_552_000, "collective_bytes": 1_811_939_328, "collective_calls": 360,
    }  # fmt: skip
    return Result("virtual", metrics, counts, ("Energy is modelled from a stated 15 W a core.",))


def sample_heldout(seed: int = 3, n: int = 24) -> Any:
    """Held-out configurations whose calibrated forecasts are good and whose earlier ones are not."""
    chance = random.Random(seed)
    points: list[HeldOutPoint] = []
    for index in range(n):
        width, depth, batch = chance.choice([96, 160, 224, 320]), chance.choice([2, 3, 5]), chance.choice([2, 4, 8])
        measured = 1.1e-8 * width**2 * depth * batch * chance.lognormvariate(0.0, 0.3) * 60
        after = measured * chance.lognormvariate(0.0, 0.07)
        before = measured * chance.lognormvariate(-0.35, 0.25)
        name = f"width {width}, depth {depth}, batch {batch}, {1 + index % 2} worker{'s' * (index % 2)}"
        points.append(
            HeldOutPoint(
                f"{name}, #{index}", measured, after, 0.86 * after, 1.16 * after, before, 0.5 * before, 2 * before
            )
        )
    return score_heldout(points)


def write_sample_run(folder: Path, **changes: float) -> Path:
    """Every file of a finished run, as `datahall prove` leaves them."""
    comparison = sample_comparison(**changes)
    _write(folder / "case.json", {"name": NAME, "model": {"layers": 4, "hidden": 256}})
    _write(folder / "plan.json", {"format_version": 1, "compute": {"data": 2, "micro_batch": 8}})
    _write(folder / "forecast.json", sample_forecast().to_json())
    _write(
        folder / "seal.json", {"sha256": "3f9c" * 16, "file": "forecast.json", "sealed_at": "2026-01-02T03:04:05+00:00"}
    )
    _write(folder / "comparison.json", comparison.to_json())
    _write(folder / "heldout.json", sample_heldout().to_json())
    _write(folder / "plans.json", {"plans": _plans()})
    _write(folder / "memory.json", Memory(_memory_items(), (158.2e6, 156.9e6)).to_json())
    _write(folder / "carry_over.json", _carry_over())
    measured = {
        row.name: Metric(row.name, row.unit, row.measured, row.measured_low, row.measured_high, Label.MEASURED)
        for row in comparison.components
    }
    for place in ("real", "baseline"):
        _write(folder / place / "result.json", Result("real", measured).to_json())
    for rank in range(2):
        _write_log(folder / "real" / "workers" / f"{rank}.jsonl", _worker_log(rank, 2, 120, resumed=60))
    _write_log(folder / "baseline" / "workers" / "0.jsonl", _worker_log(0, 1, 120))
    return folder


def _worker_log(rank: int, workers: int, steps: int, resumed: int = 0) -> list[Event]:
    chance, losses = random.Random(rank), random.Random(workers)
    events: list[Event] = []
    for step in range(steps):
        clock = 3.4 + 0.285 * step
        marks: list[tuple[str, float]] = []
        seen = 0.070 + 0.006 * rank
        for phase, length in (("input", 0.002), ("forward", seen), ("backward", 0.136), ("exchange", 0.0)):
            marks.append((phase, clock))
            clock += length * chance.uniform(0.97, 1.03)
        done = 3.4 + 0.285 * step + 0.262
        transfers = [(4_500_000, marks[2][1] + 0.05, marks[2][1] + 0.09), (4_500_000, marks[2][1] + 0.11, done)]
        marks += [("optimiser", done), ("idle", done + 0.018)]
        loss = 3.4 + 3.1 * 2.718 ** (-step / 28) + losses.gauss(0, 0.03)
        attempt = int(resumed > 0 and step >= resumed)
        data = {"rank": rank, "attempt": attempt, "step": step, "marks": marks, "transfers": transfers}
        events.append(Event(done + 0.019, "step", {**data, "loss": loss, "calls": 3, "bytes": 9_000_000, "cpu_s": 0.2}))
    return events


def _plans() -> list[dict[str, Any]]:
    chance = random.Random(11)
    entries: list[dict[str, Any]] = []
    for workers in (1, 2):
        for micro_batch in (1, 2, 4, 8, 16, 32):
            for precision in ("fp32", "bf16"):
                seconds = (0.55 if workers == 1 else 0.31) * (1 + 0.9 / micro_batch) * chance.uniform(0.93, 1.07)
                seconds *= 1.0 if precision == "fp32" else 1.6
                memory = 6e7 + 1.1e7 * micro_batch * (1 if precision == "fp32" else 0.6) + 3e7 * (workers - 1)
                name = (
                    f"{workers} worker{'s' * (workers - 1)} × {micro_batch} × {16 // min(micro_batch, 16)}, {precision}"
                )
                why = "bf16 is slower than fp32 on these cores" if precision == "bf16" else "slower"
                why = why if memory < 3.6e8 else "needs more memory than a process may have"
                entries.append(
                    {"name": name, "step_time_s": seconds, "memory_bytes": memory, "fits": memory < 3.6e8, "why": why}
                )
    best = min((entry for entry in entries if entry["fits"]), key=lambda entry: entry["step_time_s"])
    best.update(chosen=True, why="fastest that fits")
    return entries


def _memory_items() -> dict[str, float]:
    return {"parameters": 24e6, "gradients": 24e6, "optimiser state": 48e6, "activations": 52e6, "buffers": 13e6}


def _carry_over() -> dict[str, Any]:
    metrics = [
        Metric("step_time", "seconds", 11.2, 8.1, 15.9, Label.CATALOGUE),
        Metric("total_time", "seconds", 2.9e6, 2.1e6, 4.1e6, Label.CATALOGUE),
        Metric("peak_memory", "bytes", 41e9, 38e9, 44e9, Label.CATALOGUE),
        Metric("mfu", "share", 0.38, 0.27, 0.52, Label.CATALOGUE),
        Metric("cost", "usd", 5120.0, 3700.0, 7300.0, Label.ASSUMED),
    ]
    plan = "ZeRO-3 over 8, micro-batch 2, accumulation 32"
    note = "Rests on data sheets; what was fitted on CPU cores does not transfer to GPUs."
    return CarryOver("Llama 3.1 8B", "8 × A40", plan, tuple(metrics), (note,)).to_json()


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def _write_log(path: Path, events: list[Event]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(event.to_line() + "\n" for event in events), encoding="utf-8")
