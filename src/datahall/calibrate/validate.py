"""From files of measured rows to a judgement: which fit is used, which rows correct it.  Printing is `ui`'s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datahall.calibrate.doubted import believed
from datahall.calibrate.forecasting import forecast_runs, relevant
from datahall.calibrate.holdout import accelerator_of, group_of, left_out_forecasts
from datahall.calibrate.judge import Judgement
from datahall.calibrate.published import PublishedRun, read_rows, read_runs
from datahall.calibrate.refusals import Refusal
from datahall.calibrate.shipped import load, shipped_runs, unseen_runs
from datahall.calibrate.shot import MOST_ROWS

_KEYS = {"group": group_of, "accelerator": accelerator_of}


def judge_rows(file: Path | None, few: Path | None = None, leave_out: str = "", *, unseen: bool = False) -> Judgement:
    """The judgement of the rows of `file` (None: those that ship), corrected by those of `few`.

    `leave_out` is group, accelerator or empty (the shipped fit).  Rows of `few` that `file` has too are not scored.
    `unseen` without a file: the shipped runs that were collected after the fit.
    """
    shipped = unseen_runs if unseen else shipped_runs
    runs, refused = shipped() if file is None else read_runs(read_rows(file))
    shown, unread = read_runs(read_rows(few)) if few else ([], [])
    trained = load()
    (runs, doubted), (shown, unlike) = believed(trained, runs), believed(trained, shown)
    seen = first_rows(shown)
    known = {_identity(run) for run in seen}
    scored = [run for run in runs if _identity(run) not in known]
    if leave_out:
        train, start = shipped_runs()[0], trained.fitted.constants
        found = left_out_forecasts(scored, train, _KEYS[leave_out], trained.factors, start=start, seen=seen)
    else:
        found = forecast_runs(trained, scored, seen)
    learnt = (*_learnt(scored, shown, seen, len(runs) - len(scored)), *_unread([*unlike, *unread]))
    notes = (*_notes(scored, leave_out), *learnt)
    return Judgement(tuple(scored), found, (*doubted, *refused), notes)


def _notes(scored: Sequence[PublishedRun], leave_out: str) -> tuple[str, ...]:
    """What the fit had seen of the rows before they were forecast."""
    if leave_out:
        return (f"Cross-validated: the {leave_out} of each row was left out of the fit that forecast it.",)
    fitted = {_measurement(run) for run in shipped_runs()[0]}
    known = sum(_measurement(run) in fitted for run in scored)
    if not known:
        return ()
    return (
        f"{known:,} of {len(scored):,} rows are among the runs that the shipped constants were fitted to: their "
        "errors are in-sample. --leave-out group gives errors to quote.",
    )


def _learnt(
    scored: Sequence[PublishedRun], shown: Sequence[PublishedRun], seen: Sequence[PublishedRun], shared: int
) -> tuple[str, ...]:
    """What was learnt of the rows that were shown, and of which scored ones; `shared` rows are in both files."""
    if not seen:
        return ()
    notes = [f"Learnt from {len(seen)} measured rows first."]
    if len(shown) > len(seen):
        notes.append(f"{len(shown) - len(seen)} more were not used: at most {MOST_ROWS} of each group are.")
    if shared:
        notes.append(f"{shared} rows are among those and are not scored.")
    if len(scored) and not relevant(scored, seen).any():
        notes.append("No scored row is of their group, or of their stack and accelerator: they correct little.")
    return tuple(notes)


def _unread(unread: Sequence[Refusal]) -> tuple[str, ...]:
    if not unread:
        return ()
    return (f"{len(unread)} rows to learn from cannot be read; the first: {unread[0].reason}",)


def _measurement(run: PublishedRun) -> tuple[object, ...]:
    """What makes a row a restatement of another: small models on one site take the same time under several plans."""
    plan, shape = run.variants[0].plan, run.shape
    cut = (plan.tensor, plan.pipeline, plan.micro_batch, run.global_batch)
    return run.accelerator.name, run.devices, run.sequence, shape.layers, shape.hidden, *cut, f"{run.step_s:.3g}"


def first_rows(runs: list[PublishedRun]) -> list[PublishedRun]:
    """The first ten rows of each group."""
    taken: Counter[str] = Counter()
    kept: list[PublishedRun] = []
    for run in runs:
        taken[run.group] += 1
        if taken[run.group] <= MOST_ROWS:
            kept.append(run)
    return kept


def _identity(run: PublishedRun) -> tuple[object, ...]:
    plan = run.variants[0].plan
    return run.group, run.model, run.accelerator.name, run.devices, run.sequence, plan, run.traits, round(run.step_s, 4)
