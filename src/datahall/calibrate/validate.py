"""From files of measured rows to a judgement: which fit is used, which rows correct it.  Printing is `ui`'s."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from datahall.calibrate.forecasting import forecast_runs
from datahall.calibrate.holdout import accelerator_of, group_of, left_out_forecasts
from datahall.calibrate.judge import Judgement
from datahall.calibrate.published import PublishedRun, read_rows, read_runs
from datahall.calibrate.shipped import load, shipped_runs
from datahall.calibrate.shot import MOST_ROWS

_KEYS = {"group": group_of, "accelerator": accelerator_of}


def judge_rows(file: Path | None, few: Path | None = None, leave_out: str = "") -> Judgement:
    """The judgement of the rows of `file` (None: those that ship), corrected by those of `few`.

    `leave_out` is group, accelerator or empty (the shipped fit).  Rows of `few` that `file` has too are not scored.
    """
    runs, refused = shipped_runs() if file is None else read_runs(read_rows(file))
    seen = first_rows(read_runs(read_rows(few))[0]) if few else []
    known = {_identity(run) for run in seen}
    scored = [run for run in runs if _identity(run) not in known]
    trained = load()
    if leave_out:
        train, start = shipped_runs()[0], trained.fitted.constants
        found = left_out_forecasts(scored, train, _KEYS[leave_out], trained.factors, start=start, seen=seen)
    else:
        found = forecast_runs(trained, scored, seen)
    return Judgement(tuple(scored), found, tuple(refused))


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
