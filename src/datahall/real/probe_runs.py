"""What only a real run shows: start-up through real workers, and how far equal runs lie apart (the noise floor).

Small language models on all processes at once; how training times follow from rates is the forecast's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real.measure import median
from datahall.real.training import Measurement, run
from datahall.storage.plan import StoragePlan

TRIAL_SHAPE = ModelShape("trial", layers=2, hidden=128, heads=4, kv_heads=2, head_dim=32, ffn=352, vocab=256)
_SEQUENCE = 128
_MICRO_BATCH = 4


def trial_runs(folder: Path, processes: int, quick: bool) -> list[dict[str, Any]]:
    """Findings of kind startup, noise and input."""
    steps, times = (12, 1) if quick else (40, 3)
    runs = [_trial(folder / f"trial-{index}", processes, steps) for index in range(times)]
    starts = [one.result.metrics["startup"].value for one in runs]
    medians = [one.result.metrics["step_time"].value for one in runs]
    last = [step.workers[0].step_s for step in runs[-1].steps if step.steady]
    middle = median(medians)
    return [
        {"kind": "startup", "seconds": median(starts), "low": min(starts), "high": max(starts), "processes": processes},
        {
            "kind": "noise",
            "between_runs_share": (max(medians) - min(medians)) / middle,
            "within_run_share": median([abs(value - median(last)) for value in last]) / median(last),
            "runs": times,
            "step_s": middle,
        },
        {"kind": "input", "seconds_per_token": runs[-1].result.metrics["input"].value / (_MICRO_BATCH * _SEQUENCE)},
    ]


def _trial(folder: Path, processes: int, steps: int) -> Measurement:
    batch = _MICRO_BATCH * processes
    application = Training(float(batch * _SEQUENCE * steps), batch, _SEQUENCE)
    case = Case("trial", TRIAL_SHAPE, application, guessed_site()[0], Goal())
    compute = ComputePlan(data=processes, micro_batch=_MICRO_BATCH, precision="fp32")
    plan = Plan(compute, StoragePlan(), NetworkPlan(), case.hash())
    return run(case, plan, folder, steps=steps, count_flops=False)
