"""Measures a workload that datahall has no formulas for, before a run: real steps, alone and without an exchange.

As many processes as the plan keeps busy at once take steps of their own with other sizes of micro-batch than the
plan's.  What a split adds to that is the forecast's business; nothing is fitted here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datahall.base.errors import WorldFailed
from datahall.case.question import Case
from datahall.decisions.plan import Plan
from datahall.real.job import Job
from datahall.real.launch import local_workers, run_attempt
from datahall.real.turns import turn

WORKER = "datahall.real.rehearsal_worker"


def rehearse(case: Case, plan: Plan, folder: Path, import_paths: Sequence[str] = ()) -> dict[str, Any]:
    """What the processes found, as plain JSON values; the one that was slowest speaks for them.

    `steps` (samples and seconds of forward and backward), `accumulate_s` (of gradients), `update_s`, `input_s` of a
    sample, `saved` (samples, bytes kept for the backward pass, the largest of them), `built_bytes` that model and data
    take, and `anatomy`.  The workload's own error comes back; Refused for a split that it has no cuts for.
    """
    (folder / "workers").mkdir(parents=True, exist_ok=True)
    cores = max(1, (os.cpu_count() or 1) // plan.compute.threads)
    job = Job(
        case=case,
        plan=plan,
        folder=folder,
        stop=0,
        workers=min(plan.compute.devices, cores),
        attempt=0,
        origin_s=time.monotonic(),
        parent=os.getpid(),
        rendezvous="",
        import_paths=tuple(import_paths),
    )
    with turn():
        loss = run_attempt(job, start=local_workers(WORKER))
    if loss is not None:
        raise WorldFailed(f"the rehearsal's process {loss.rank} {loss.how}.", where=str(folder / "workers"))
    found = [json.loads((folder / f"rehearsed-{rank}.json").read_text("utf-8")) for rank in range(job.workers)]
    return max(found, key=lambda one: sum(seconds for _, seconds in one["steps"]))
