"""Measurements that were taken in another unit than their column's: rows so far off that no run can have been so slow.

What a stack, a network or a mistake in a plan costs stays far below this; milliseconds taken for seconds do not.  What
is as much too fast would be an MFU over 100 %, which `published` refuses.  Nothing is fitted or scored here.
"""

from __future__ import annotations

from collections.abc import Sequence

from datahall.calibrate.forecasting import Trained, forecast_runs
from datahall.calibrate.published import UNITS, PublishedRun
from datahall.calibrate.refusals import Refusal

DOUBTED = 100.0  # times its forecast
_IDLE_SHARE = 1.0 / DOUBTED  # of the peak: what is faster cannot be so far off a forecast that is possible


def believed(trained: Trained, runs: Sequence[PublishedRun]) -> tuple[list[PublishedRun], list[Refusal]]:
    """The runs whose measurement can be one in its column's unit, and refusals of the others."""
    slow = [run for run in runs if run.share_of_peak < _IDLE_SHARE]
    if not slow:
        return list(runs), []
    forecasts = dict(zip(map(id, slow), forecast_runs(trained, slow).seconds, strict=True))
    refused = {id(run): _refusal(run, forecasts[id(run)]) for run in slow if run.step_s > DOUBTED * forecasts[id(run)]}
    return [run for run in runs if id(run) not in refused], list(refused.values())


def _refusal(run: PublishedRun, forecast_s: float) -> Refusal:
    unit = UNITS[run.metric]
    reason = (
        f"{run.step_s:,.4g} s a step is {run.step_s / forecast_s:,.0f} times its forecast of {forecast_s:.3g} s, "
        f"an MFU of {100 * run.share_of_peak:.2g} %: no run is so slow. Is it in {'seconds' if unit == 's' else unit}?"
    )
    return Refusal(run.key, run.group, run.model, run.accelerator.name, "unreadable", reason, run.source)
