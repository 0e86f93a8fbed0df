"""Calibrate on some configurations, forecast others that the fit has not seen, run them, and score before and after.

Every forecast of a held-out configuration is written before its run.  Scores are written after each run, so that an
interrupted proof keeps what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datahall.base.event import Event, OnEvent
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.base.score import HeldOutPoint, HeldOutScore, score_heldout
from datahall.calibrate.drift import Drift
from datahall.calibrate.machine import Machine, MeasuredRun, fit_machine
from datahall.prove.configurations import Configuration
from datahall.prove.effort import Effort
from datahall.prove.folder import write_json
from datahall.prove.pace import PaceLog, busy_cores, drift_record, middle_of
from datahall.real.training import run
from datahall.report.comparison import DriftRecord
from datahall.virtual.training import forecast

SCORED = ("step_time", "peak_memory")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How a calibrated machine did on configurations that it had not seen, by metric, and how the pace moved."""

    scores: dict[str, HeldOutScore]
    drift: DriftRecord


def calibrate(
    machine: Machine, seen: Sequence[Configuration], effort: Effort, folder: Path, pace: PaceLog, on_event: OnEvent
) -> Machine:
    """`machine` fitted to runs of the configurations in `seen`, what its pace did to each of them divided out."""
    runs: list[MeasuredRun] = []
    moments_s: list[float] = []
    pace.read()
    for number, one in enumerate(seen, 1):
        measured, moment_s = _measure(machine, one, effort, folder / one.name)
        pace.read()
        runs.append(MeasuredRun(one.case, one.plan.compute, measured))
        moments_s.append(moment_s)
        on_event(Event(0.0, "configuration", {"name": one.name, "done": number, "of": len(seen)}))
    drift = pace.drift()
    steady = [at_usual_pace(one, drift, moment_s) for one, moment_s in zip(runs, moments_s, strict=True)]
    fitted = fit_machine(machine, steady, drift.ahead_log_sd())
    slower = {one.name: run.slower_log for one, run in zip(seen, steady, strict=True)}
    found = {**fitted.local.to_json(), "runs": list(slower), "slower_log": slower, "drift": drift.to_json()}
    write_json(folder / "calibration.json", found)
    return fitted


def at_usual_pace(one: MeasuredRun, drift: Drift, moment_s: float) -> MeasuredRun:
    """A run with how much slower than usual the machine was around it."""
    cores = busy_cores(one.compute)
    level, unsure = drift.level(cores, moment_s)
    return replace(one, slower_log=level - drift.usual(cores), unsure_log_sd=unsure)


def judge(
    before: Machine,
    after: Machine,
    held_out: Sequence[Configuration],
    effort: Effort,
    folder: Path,
    pace: PaceLog,
    on_event: OnEvent,
) -> HeldOut:
    """Forecast, run and score configurations that neither machine has seen; `pace` only tells what drift explains."""
    points: dict[str, list[HeldOutPoint]] = {metric: [] for metric in SCORED}
    scores: dict[str, HeldOutScore] = {}
    known, ran = pace.drift(), list[tuple[int, float]]()
    for number, one in enumerate(held_out, 1):
        first = forecast(one.case, one.plan, before.at(one.case, one.plan.compute))
        second = forecast(one.case, one.plan, after.at(one.case, one.plan.compute))
        write_json(folder / one.name / "forecast.json", {"before": first.to_json(), "after": second.to_json()})
        measured, moment_s = _measure(after, one, effort, folder / one.name)
        pace.read()
        ran.append((busy_cores(one.plan.compute), moment_s))
        for metric in SCORED:
            points[metric].append(_point(one.name, metric, first, second, measured))
            scores[metric] = score_heldout(points[metric])
        write_json(folder / "scores.json", {metric: score.to_json() for metric, score in scores.items()})
        data: dict[str, Any] = {"name": one.name, "done": number, "of": len(held_out), "judged": True}
        on_event(Event(0.0, "configuration", {**data, **_told(second.metrics["step_time"], measured)}))
    return HeldOut(scores, drift_record(pace.drift(), known, points["step_time"], ran))


def _measure(machine: Machine, one: Configuration, effort: Effort, folder: Path) -> tuple[Result, float]:
    """What a run of `one` measured, and the moment in the middle of its steps."""
    expected = forecast(one.case, one.plan, machine.at(one.case, one.plan.compute)).metrics["step_time"].value
    result = run(one.case, one.plan, folder, steps=effort.steps(expected), count_flops=False).result
    moment_s = middle_of(result)
    write_json(folder / "result.json", result.to_json())
    return result, moment_s


def _point(name: str, metric: str, before: Result, after: Result, measured: Result) -> HeldOutPoint:
    first, second = before.metrics[metric], after.metrics[metric]
    return HeldOutPoint(
        name, measured.metrics[metric].value, second.value, second.low, second.high, first.value, first.low, first.high
    )


def _told(forecast_step: Metric, measured: Result) -> dict[str, float]:
    return {"forecast_s": forecast_step.value, "measured_s": measured.metrics["step_time"].value}
