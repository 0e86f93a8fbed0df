"""Measures what agreeing takes under fast recovery, before a run: so many workers, a tiny model, one of them killed.

What it finds does not depend on the model: a quorum and a commit are messages, and a death is noticed by silence.
"""

from __future__ import annotations

from pathlib import Path

from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real.fast import FastRun, run_fast
from datahall.real.injection import Injection
from datahall.real.measure import AGREEING, WorkerStep, median, read_kind
from datahall.storage.plan import StoragePlan

_SHAPE = ModelShape("rehearsed", layers=1, hidden=16, heads=1, kv_heads=1, head_dim=16, ffn=32, vocab=256)
_STEPS, _KILLED_IN = 120, 80


def rehearse_fast(workers: int, threads: int, folder: Path) -> dict[str, float]:
    """`quorum_s`, `commit_s`, `noticed_s` and `start_s` of `virtual.fast_recovery.Agreement`; some ten seconds."""
    application = Training(float(workers * 8 * _STEPS), workers, 8)
    case = Case("rehearsed", _SHAPE, application, guessed_site()[0], Goal())
    compute = ComputePlan(data=workers, threads=threads, micro_batch=1, precision="fp32")
    plan = Plan(compute, StoragePlan(interval_steps=0), NetworkPlan(), case.hash())
    run = run_fast(case, plan, folder, kills=[Injection("kill-worker", rank=workers - 1, step=_KILLED_IN)])
    return found_in(run)


def found_in(run: FastRun) -> dict[str, float]:
    """What the log of such a run says; medians over the undisturbed steps of all workers."""
    calm = [
        worker for step in run.measured.steps if step.steady and step.number < _KILLED_IN for worker in step.workers
    ]
    first, second = zip(*(_agreeing(worker) for worker in calm), strict=True)
    ready = [event.time_s for event in read_kind(run.measured.folder, "ready") if event.data["step"] == 0]
    return {
        "quorum_s": median(first),
        "commit_s": median(second),
        "noticed_s": run.longest_step_s,
        "start_s": max(ready[: len(run.measured.steps[0].workers)]),
    }


def _agreeing(worker: WorkerStep) -> tuple[float, float]:
    """From the beginning of a step to its quorum, and its commit."""
    phases = [(begin, end) for phase, begin, end in worker.phases if phase == AGREEING]
    return phases[0][1] - worker.begin_s, phases[-1][1] - phases[-1][0]
