"""The published runs nearest to a case, each with a forecast that never saw its family: a case's measured side.

A run of the shipped fit is forecast by constants refitted without its family; one that was collected after the fit by
the shipped ones.  So no forecast here is in sample.  Which runs are near is a matter of accelerator, model, size and
precision; nothing here knows of claims.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from datahall.calibrate.forecasting import Forecasts, forecast_runs
from datahall.calibrate.holdout import group_of, left_out_forecasts
from datahall.calibrate.published import PublishedRun
from datahall.calibrate.shipped import load, shipped_runs, unseen_runs
from datahall.case.model import ModelShape
from datahall.compute.counts import ShapeCounts
from datahall.compute.mfu import BITS_OF, step_mfu

_MOST, _MOST_OF_FAMILY = 6, 2
_OTHER_KIND, _OTHER_BITS, _LESS_SURE = 3.0, 1.5, 0.25  # in doublings of the model's size
_PER_DOUBLING = {"devices": 0.5, "sequence": 0.25}


@dataclass(frozen=True, slots=True)
class Nearby:
    """One published run: its measured MFU, and the seconds of its step as forecast, with a 90 % interval.

    `refitted` tells a forecast by constants refitted without the run's family from one by the shipped constants, which
    never saw the run either.
    """

    run: PublishedRun
    mfu: float
    seconds: float
    low: float
    high: float
    refitted: bool

    @property
    def precision(self) -> str:
        """What it was trained in."""
        return self.run.variants[0].plan.precision

    @property
    def late(self) -> float:
        """Signed relative error of the step's time: above zero is forecast too slow."""
        return self.seconds / self.run.step_s - 1.0

    @property
    def held(self) -> bool:
        """Whether the measured step lies in the interval."""
        return self.low <= self.run.step_s <= self.high


def nearby(
    shape: ModelShape, accelerator: str, devices: int, sequence: int, precision: str, most: int = _MOST
) -> list[Nearby]:
    """The published runs of `accelerator` nearest to so many devices training `shape`, nearest first.

    At most two of a family, so that one source does not fill the list; none where nobody published any.  Refits the
    constants once for each family of the fit among them: seconds.
    """
    fitted, later = shipped_runs()[0], unseen_runs()[0]
    runs = [run for run in (*fitted, *later) if run.accelerator.name == accelerator and run.adapters is None]
    runs.sort(key=lambda run: _distance(run, shape, devices, sequence, precision))
    taken: Counter[str] = Counter()
    chosen: list[PublishedRun] = []
    for run in runs:
        if len(chosen) < most and taken[run.group] < _MOST_OF_FAMILY:
            taken[run.group] += 1
            chosen.append(run)
    trained, own = load(), {run.group for run in fitted}
    mine = [run for run in chosen if run.group in own]
    others = [run for run in chosen if run.group not in own]
    left_out = left_out_forecasts(mine, fitted, group_of, trained.factors, start=trained.fitted.constants)
    found = _told(mine, left_out, refitted=True) + _told(others, forecast_runs(trained, others), refitted=False)
    return sorted(found, key=lambda one: chosen.index(one.run))


def _distance(run: PublishedRun, shape: ModelShape, devices: int, sequence: int, precision: str) -> float:
    """How unlike a run is, in doublings of the model's size."""
    apart = abs(math.log2(run.shape.parameters() / shape.parameters()))
    apart += _PER_DOUBLING["devices"] * abs(math.log2(run.devices / devices))
    apart += _PER_DOUBLING["sequence"] * abs(math.log2(run.sequence / sequence))
    apart += _OTHER_KIND * ((run.shape.experts > 0) != (shape.experts > 0))
    apart += _OTHER_BITS * (BITS_OF[run.variants[0].plan.precision] != BITS_OF[precision])
    return apart + _LESS_SURE * (run.quality != "A")


def _told(runs: Sequence[PublishedRun], forecasts: Forecasts, *, refitted: bool) -> list[Nearby]:
    ends = zip(forecasts.seconds.tolist(), forecasts.low.tolist(), forecasts.high.tolist(), strict=True)
    return [Nearby(run, _mfu(run), *three, refitted) for run, three in zip(runs, ends, strict=True)]


def _mfu(run: PublishedRun) -> float:
    peak = run.accelerator.peak_flops_per_s[run.variants[0].plan.precision] * run.devices
    return step_mfu(ShapeCounts.of(run.shape), run.sequence, run.global_batch, run.step_s, peak)
