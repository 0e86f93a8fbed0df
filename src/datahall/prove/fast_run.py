"""One run with fast recovery beside its forecast: agreeing is rehearsed, everything is sealed, then it runs.

`sealed_run` does the same for every other run.  A worker that is lost costs samples here, so that what was read is
compared with `==` only where nobody was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datahall.base.event import OnEvent
from datahall.base.metric import exactly
from datahall.base.result import Result
from datahall.case.question import Case
from datahall.decisions.plan import Plan
from datahall.prove.folder import write_json
from datahall.prove.sealed_run import Here, SealedRun, foretell, rehearsed, seal_forecast
from datahall.real.fast import FastRun, run_fast
from datahall.real.fast_rehearsal import rehearse_fast
from datahall.real.injection import Injection
from datahall.virtual.fast_recovery import OF_A_LOSS, Agreement, recovering_fast


@dataclass(frozen=True, slots=True)
class SealedFastRun:
    """A run with fast recovery, and the same beside its forecast."""

    done: FastRun
    sealed: SealedRun


def sealed_fast_run(
    case: Case,
    plan: Plan,
    here: Here,
    folder: Path,
    *,
    steps: int | None = None,
    kills: Sequence[Injection] = (),
    agreement: Agreement | None = None,
    on_event: OnEvent | None = None,
    import_paths: Sequence[str] = (),
) -> SealedFastRun:
    """Forecast `plan` with fast recovery, seal, run under `folder`/real, and compare.

    `agreement` is what an earlier rehearsal of as many workers found; without it there is one first.  `kills` as in
    `fast.run_fast`: the forecast knows nothing of them, and says for one what it costs.
    """
    here = rehearsed(case, plan, here, folder / "rehearsal", import_paths) if case.application.entry else here
    agreement = agreement or agreement_here(plan, folder / "agreement")
    said, items = forecast_fast(case, plan, here, agreement, steps)
    sealed = seal_forecast(case, plan, here, folder, said, items)
    done = run_fast(case, plan, folder / "real", steps=steps, kills=kills, on_event=on_event, import_paths=import_paths)
    measured = replace(done.measured, result=with_losses(done))
    if done.measured.lost:
        read = {name: count for name, count in said.counts.items() if name not in ("samples", "tokens")}
        sealed = replace(sealed, said=replace(said, counts=read))
    measured, compared, held = sealed.beside(measured)
    return SealedFastRun(done, SealedRun(measured, said, compared, held, None))


def agreement_here(plan: Plan, folder: Path) -> Agreement:
    """What agreeing takes among as many workers as the plan has, measured now (some ten seconds)."""
    found = rehearse_fast(plan.compute.devices, plan.compute.threads, folder)
    write_json(folder / "found.json", found)
    return Agreement(**found)


def forecast_fast(
    case: Case, plan: Plan, here: Here, agreement: Agreement, steps: int | None = None
) -> tuple[Result, dict[str, float]]:
    """The forecast of the plan with fast recovery, which writes no checkpoints, and its memory by item."""
    one_bucket = replace(plan.network, bucket_bytes=sys.maxsize)  # the sum begins when all gradients are there
    without = replace(plan, storage=replace(plan.storage, interval_steps=0), network=one_bucket)
    said, items = foretell(case, without, here, steps)
    placed = here.machine.at(case, plan.compute)
    rate = float(placed.inputs(case, plan.compute).rates.memory_bytes_per_s)
    return recovering_fast(said, plan.compute, agreement, placed, rate), items


def with_losses(done: FastRun) -> Result:
    """The measurement with what each lost worker cost, where workers were lost and the last one's place was taken."""
    result, workers = done.measured.result, max(len(step.workers) for step in done.measured.steps)
    if not done.measured.lost:
        return result
    metrics = dict(result.metrics)
    metrics[OF_A_LOSS[0]] = exactly(OF_A_LOSS[0], "seconds", done.longest_step_s)
    if len(done.measured.steps[-1].workers) == workers:
        each = done.dropped_samples / len(done.measured.lost)
        metrics[OF_A_LOSS[1]] = exactly(OF_A_LOSS[1], "count", each)
    return replace(result, metrics=metrics)
