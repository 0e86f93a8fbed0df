"""Kill a worker in the middle of a run and look whether anything was lost: samples, losses, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datahall.base.event import OnEvent
from datahall.case.question import Case
from datahall.decisions.plan import Plan
from datahall.real.injection import Injection
from datahall.real.training import run

STEPS = 16
CHECKPOINT_EVERY = 5
KILLED_IN = 12


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a SIGKILL cost.  `samples_lost` and `samples_repeated` count against the undisturbed order of the loader."""

    killed_worker: int
    killed_in_step: int
    resumed_after_step: int
    samples_lost: int
    samples_repeated: int
    steps: int

    @property
    def holds(self) -> bool:
        """Nothing lost, nothing repeated, every step there."""
        return self.samples_lost == self.samples_repeated == 0 and self.steps == STEPS

    def to_json(self) -> dict[str, Any]:
        """The content of recovery.json."""
        return {**asdict(self), "holds": self.holds}


def kill_and_resume(case: Case, plan: Plan, folder: Path, on_event: OnEvent, import_paths: Sequence[str]) -> Recovery:
    """Train `plan` with a worker killed in the middle, and the same without; compare what their loaders handed out."""
    period = plan.network.local_steps
    every = -(-CHECKPOINT_EVERY // period) * period  # local updates have checkpoints where workers meet
    plan = replace(plan, storage=replace(plan.storage, interval_steps=every))
    victim = plan.compute.data - 1
    told: dict[str, Any] = {
        "steps": STEPS,
        "on_event": on_event,
        "count_flops": False,
        "import_paths": import_paths,
    }
    killed = run(case, plan, folder / "killed", injection=Injection("kill-worker", rank=victim, step=KILLED_IN), **told)
    calm = run(case, replace(plan, storage=replace(plan.storage, interval_steps=0)), folder / "undisturbed", **told)
    expected = [sample for step in sorted(calm.samples) for sample in calm.samples[step]]
    read = [sample for step in sorted(killed.samples) for sample in killed.samples[step]]
    lost = len(set(expected) - set(read))
    return Recovery(
        killed_worker=killed.lost[0].rank if killed.lost else -1,
        killed_in_step=killed.lost[0].step if killed.lost else -1,
        resumed_after_step=KILLED_IN // every * every,
        samples_lost=lost,
        samples_repeated=len(read) - len(set(read)),
        steps=len(killed.steps),
    )
