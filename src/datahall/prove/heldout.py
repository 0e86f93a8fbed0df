"""Calibrate on some configurations, forecast others that the fit has not seen, run them, and score before and after.

Every forecast of a held-out configuration is written before its run.  Scores are written after each run, so that an
interrupted proof keeps what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datahall.base.event import Event, OnEvent
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.base.score import HeldOutPoint, HeldOutScore, score_heldout
from datahall.calibrate.machine import Machine, MeasuredRun, fit_machine
from datahall.prove.configurations import Configuration
from datahall.prove.effort import Effort
from datahall.prove.folder import write_json
from datahall.real.training import run
from datahall.virtual.training import forecast

SCORED = ("step_time", "peak_memory")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The calibrated machine and how it did on configurations that it had not seen, by metric."""

    machine: Machine
    scores: dict[str, HeldOutScore]


def calibrate(
    machine: Machine, seen: Sequence[Configuration], effort: Effort, folder: Path, on_event: OnEvent
) -> Machine:
    """`machine` fitted to runs of the configurations in `seen`."""
    runs: list[MeasuredRun] = []
    for number, one in enumerate(seen, 1):
        measured = _measure(machine, one, effort, folder / one.name)
        runs.append(MeasuredRun(one.case, one.plan.compute, measured))
        on_event(Event(0.0, "configuration", {"name": one.name, "done": number, "of": len(seen)}))
    fitted = fit_machine(machine, runs)
    write_json(folder / "calibration.json", {**fitted.local.to_json(), "runs": [one.name for one in seen]})
    return fitted


def judge(
    before: Machine, after: Machine, held_out: Sequence[Configuration], effort: Effort, folder: Path, on_event: OnEvent
) -> HeldOut:
    """Forecast, run and score configurations that neither machine has seen."""
    points: dict[str, list[HeldOutPoint]] = {metric: [] for metric in SCORED}
    scores: dict[str, HeldOutScore] = {}
    for number, one in enumerate(held_out, 1):
        first = forecast(one.case, one.plan, before.at(one.case, one.plan.compute))
        second = forecast(one.case, one.plan, after.at(one.case, one.plan.compute))
        write_json(folder / one.name / "forecast.json", {"before": first.to_json(), "after": second.to_json()})
        measured = _measure(after, one, effort, folder / one.name)
        for metric in SCORED:
            points[metric].append(_point(one.name, metric, first, second, measured))
            scores[metric] = score_heldout(points[metric])
        write_json(folder / "scores.json", {metric: score.to_json() for metric, score in scores.items()})
        data: dict[str, Any] = {"name": one.name, "done": number, "of": len(held_out), "judged": True}
        on_event(Event(0.0, "configuration", {**data, **_told(second.metrics["step_time"], measured)}))
    return HeldOut(after, scores)


def _measure(machine: Machine, one: Configuration, effort: Effort, folder: Path) -> Result:
    expected = forecast(one.case, one.plan, machine.at(one.case, one.plan.compute)).metrics["step_time"].value
    result = run(one.case, one.plan, folder, steps=effort.steps(expected), count_flops=False).result
    write_json(folder / "result.json", result.to_json())
    return result


def _point(name: str, metric: str, before: Result, after: Result, measured: Result) -> HeldOutPoint:
    first, second = before.metrics[metric], after.metrics[metric]
    return HeldOutPoint(
        name, measured.metrics[metric].value, second.value, second.low, second.high, first.value, first.low, first.high
    )


def _told(forecast_step: Metric, measured: Result) -> dict[str, float]:
    return {"forecast_s": forecast_step.value, "measured_s": measured.metrics["step_time"].value}
