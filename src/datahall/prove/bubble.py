"""The idle share of a pipeline's stages: by the formula, by the order of the work, and by the clock on both sides."""

from __future__ import annotations

from dataclasses import dataclass

from datahall.calibrate.machine import Machine
from datahall.calibrate.own_model import OwnModel
from datahall.case.question import Case
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.compute.schedule import Action, idle_share
from datahall.real.measure import read_kind
from datahall.real.training import Measurement
from datahall.virtual.step_time import StepInputs, bubble_share, step_time


@dataclass(frozen=True, slots=True)
class Bubble:
    """Share of a step that a pipeline's stages stand still.

    By the schedule: the formula and the order in which the workers really worked.  By the clock, a mean over the
    stages: the forecast knows how many workers share a core, and the measurement is of the event log.
    """

    formula: float
    by_order: float
    clock_forecast: float
    by_clock: float


def bubble_forecast(case: Case, compute: ComputePlan, machine: Machine | OwnModel) -> float:
    """Share of a step that a stage stands still by the clock; 0 without a pipeline."""
    if compute.pipeline == 1:
        return 0.0
    inputs: StepInputs = machine.inputs(case, compute)
    seconds = step_time(inputs, PlanNumbers.of(compute))
    return float(seconds.waiting) / float(seconds.total)


def bubble_of(compute: ComputePlan, measured: Measurement, expected: float) -> Bubble | None:
    """What the workers' logs say of it; None without a pipeline."""
    if compute.pipeline == 1:
        return None
    orders: dict[int, list[Action]] = {}
    for event in read_kind(measured.folder, "order"):
        orders[event.data["rank"]] = [(kind, stage, batch) for kind, stage, batch in event.data["actions"]]
    of_one = compute.devices // compute.pipeline  # workers of a stage; stages that work together lie so far apart
    pipes = [[orders[rank] for rank in range(first, compute.devices, of_one)] for first in range(of_one)]
    played = [idle_share(pipe, compute.pipeline * compute.virtual_stages) for pipe in pipes]
    fineness = 1.0 / PlanNumbers.of(compute).fill_share
    steady = [step for step in measured.steps if step.steady] or list(measured.steps)
    waited = sum(worker.seconds["waiting"] for step in steady for worker in step.workers)
    whole = sum(worker.step_s for step in steady for worker in step.workers)
    return Bubble(
        float(bubble_share(compute.pipeline, compute.accumulation, fineness)),
        sum(played) / len(played),
        expected,
        waited / whole,
    )
