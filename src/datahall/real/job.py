"""What the launcher tells its workers: one JSON file for one attempt at a run.

Plain values only; a worker builds everything else itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datahall.case.question import Case
from datahall.case.saved import case_from_json
from datahall.compute.layout import Layout
from datahall.decisions.plan import Plan, plan_from_json
from datahall.real.injection import Injection

EXIT_LOST_PEER = 75  # a worker's collective failed because another worker is gone


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt: which case and plan, which steps, where, with how many workers.

    Training runs from the newest committed checkpoint in `folder` (or step 0) up to `stop` completed steps.
    `origin_s` is the run's start on the monotonic clock, which all workers of a machine share.  `rendezvous` is an
    init_method of torch.distributed and `interface` the network device that collectives use.  `hosts` are network
    namespaces, one a worker (none: all workers on this machine's own network).
    """

    case: Case
    plan: Plan
    folder: Path
    stop: int
    workers: int
    attempt: int
    origin_s: float
    parent: int
    rendezvous: str
    interface: str = "lo"
    hosts: tuple[str, ...] = ()
    injection: Injection | None = None
    import_paths: tuple[str, ...] = ()
    checkpoint_at_stop: bool = False
    keep_weights: bool = False
    count_flops: bool = True

    def save(self, path: Path) -> None:
        """Write the job to `path`."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values.update(case=self.case.to_json(), plan=self.plan.to_json(), folder=str(self.folder))
        values["injection"] = self.injection.to_json() if self.injection else None
        path.write_text(json.dumps(values), encoding="utf-8")

    def voice(self) -> int:
        """The worker that knows the loss and speaks for the run."""
        return Layout.of(self.plan.compute, self.workers).voice

    def micro_steps(self) -> int:
        """Micro-batches per step and worker, so that the global batch stays the plan's whatever the workers' number."""
        compute = self.plan.compute
        model_devices = compute.devices // compute.data
        return compute.global_batch // (self.workers // model_devices * compute.micro_batch)


def load_job(path: Path) -> Job:
    """The job that `Job.save` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values.update(
        case=case_from_json(values["case"]), plan=plan_from_json(values["plan"]), folder=Path(values["folder"])
    )
    values["injection"] = Injection(**values["injection"]) if values["injection"] else None
    values["import_paths"], values["hosts"] = tuple(values["import_paths"]), tuple(values["hosts"])
    return Job(**values)
