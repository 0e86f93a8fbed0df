"""The shipped calibration (constants, effects, interval factors, a JSON file) and the runs it was fitted to.

`refit` writes it; `load` reads it.  Nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from datahall.calibrate.fit import Fitted, information
from datahall.calibrate.forecasting import FAMILIAR, UNSEEN, Trained
from datahall.calibrate.holdout import group_of, left_out_forecasts, model_fold_of, with_factors
from datahall.calibrate.published import PublishedRun, read_runs
from datahall.calibrate.refusals import Refusal
from datahall.catalog import calibrations, published_runs

NAME = "training"


@cache
def shipped_runs() -> tuple[tuple[PublishedRun, ...], tuple[Refusal, ...]]:
    """The shipped published runs, and those that cannot be read."""
    runs, refused = read_runs(published_runs.rows())
    return tuple(runs), tuple(refused)


@cache
def unseen_runs() -> tuple[tuple[PublishedRun, ...], tuple[Refusal, ...]]:
    """The runs collected after the fit, and those that cannot be read; never fitted to."""
    runs, refused = read_runs(published_runs.unseen_rows())
    return tuple(runs), tuple(refused)


@cache
def load() -> Trained:
    """The shipped calibration of training steps."""
    data, runs = calibrations.calibration(NAME), shipped_runs()[0]
    fitted = Fitted(dict(data["constants"]), dict(data["effects"]))
    return with_factors(replace(fitted, precision=information(fitted, runs)), runs, dict(data["interval_factors"]))


def trained_json(trained: Trained, runs: tuple[PublishedRun, ...], held_out: Mapping[str, Any]) -> dict[str, Any]:
    """A calibration as plain JSON values, with its range of validity and its held-out errors."""
    return {
        "format_version": 1,
        "name": NAME,
        "fitted_to": f"{len(runs)} published runs, datahall/catalog/published",
        "constants": {name: float(f"{value:.6g}") for name, value in trained.fitted.constants.items()},
        "effects": {name: round(value, 5) for name, value in trained.fitted.effects.items()},
        "interval_factors": {name: round(value, 4) for name, value in trained.factors.items()},
        "half_widths": half_widths(trained, runs),
        "validity": {
            "stacks": sorted(trained.stacks),
            "accelerators": sorted(trained.accelerators),
            "devices": [min(run.devices for run in runs), max(run.devices for run in runs)],
            "hidden": [min(run.shape.hidden for run in runs), max(run.shape.hidden for run in runs)],
            "sequence": [min(run.sequence for run in runs), max(run.sequence for run in runs)],
        },
        "held_out": held_out,
    }


def half_widths(trained: Trained, runs: tuple[PublishedRun, ...]) -> dict[str, float]:
    """Half of a usual 90 % interval of the logarithm of a step's seconds, by condition: what a plan is given.

    From left-out models (familiar) and families (unseen), of dense models and of mixtures of experts.
    """
    found: dict[str, float] = {}
    mixture = np.array([run.shape.experts > 0 for run in runs], dtype=bool)
    for condition, key in ((FAMILIAR, model_fold_of), (UNSEEN, group_of)):
        left_out = left_out_forecasts(runs, runs, key, trained.factors, start=trained.fitted.constants)
        half = np.log(left_out.high / left_out.seconds)
        found[condition] = round(float(np.median(half[~mixture])), 4)
        found[f"{condition}_mixture"] = round(float(np.median(half[mixture])), 4)
    return found
