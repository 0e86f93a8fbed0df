"""Find a bottleneck blind: disturb the real world only, and see whether the comparison with the forecast names it.

Plan, forecast and seal know nothing of the disturbance.  Doses are multiples of the forecast step (of the checkpoint's
forecast for the disk).  Controls are undisturbed runs in which nothing must be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datahall.base.event import Event, OnEvent
from datahall.base.result import Result
from datahall.calibrate.machine import Machine
from datahall.case.question import Case
from datahall.decisions.plan import Plan
from datahall.prove.effort import Effort
from datahall.real.injection import Injection
from datahall.real.training import run
from datahall.report.comparison import compare
from datahall.virtual.training import forecast

EXPECTED = {"slow-disk": "checkpoint", "slow-link": "transfer", "slow-worker": "waiting", "slow-input": "input"}
CHECKPOINTS = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """One disturbed run: what was done (empty for a control), how much, and which component was named."""

    kind: str
    dose: float
    named: str
    excess_s: float

    @property
    def right(self) -> bool:
        """The component that was disturbed was named, or nothing where nothing was."""
        return self.named == EXPECTED.get(self.kind, "")

    def to_json(self) -> dict[str, Any]:
        """One entry of blind.json."""
        return {**asdict(self), "right": self.right}


def blind_trials(
    case: Case, plan: Plan, machine: Machine, noise_share: float, effort: Effort, folder: Path, on_event: OnEvent
) -> list[Trial]:
    """All kinds at all doses, and the controls, of a plan with at least two workers."""
    step_s = forecast(case, plan, machine.at(case, plan.compute)).metrics["step_time"].value
    steps = effort.steps(step_s)
    plan = replace(plan, storage=replace(plan.storage, interval_steps=max(1, steps // CHECKPOINTS)))
    expected = forecast(case, plan, machine.at(case, plan.compute))
    doses = [("", 0.0)] * effort.controls + [(kind, dose) for dose in effort.doses for kind in EXPECTED]
    trials: list[Trial] = []
    for number, (kind, dose) in enumerate(doses, 1):
        injection = disturbance(kind, dose, expected, plan) if kind else None
        measured = run(case, plan, folder / f"{number}-{kind or 'control'}", steps=steps, injection=injection)
        found = compare(
            expected, measured.result, noise_share, checkpoint_every_steps=plan.storage.interval_steps
        ).bottleneck
        trials.append(Trial(kind, dose, found.deviating, found.excess_s))
        on_event(Event(0.0, "trial", {**trials[-1].to_json(), "done": number, "of": len(doses)}))
    return trials


def disturbance(kind: str, dose: float, expected: Result, plan: Plan) -> Injection:
    """The disturbance that adds about `dose` of a step (of a checkpoint spread over its steps, for the disk)."""
    added_s = dose * expected.metrics["step_time"].value
    if kind == "slow-disk":
        each_s = added_s * plan.storage.interval_steps
        written = expected.counts["checkpoint_bytes"] / max(1, expected.counts["checkpoints"])
        return Injection(kind, bytes_per_s=written / (each_s + expected.metrics["checkpoint_write"].value))
    if kind == "slow-link":
        return Injection(
            kind, latency_s=added_s / max(1, expected.counts["collective_calls"] // expected.counts["steps"])
        )
    if kind == "slow-worker":
        return Injection(kind, share=added_s / expected.metrics["compute"].value, rank=plan.compute.data - 1)
    return Injection(kind, latency_s=added_s / plan.compute.accumulation)


def summary(trials: Sequence[Trial]) -> list[tuple[float, int, int]]:
    """By dose (0: controls): trials named right, and trials."""
    doses = sorted({trial.dose for trial in trials})
    groups = [[trial for trial in trials if trial.dose == dose] for dose in doses]
    return [(dose, sum(trial.right for trial in group), len(group)) for dose, group in zip(doses, groups, strict=True)]
