"""The shipped calibration (constants, effects, interval factors, a JSON file) and the runs it was fitted to.

`refit` writes it; `load` reads it.  Nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from datahall.calibrate.fit import Fitted
from datahall.calibrate.forecasting import FAMILIAR, UNSEEN, Trained, forecast_runs, places
from datahall.calibrate.neighbours import neighbours_of
from datahall.calibrate.published import PublishedRun, Refusal, read_runs
from datahall.catalog import calibrations, published_runs

NAME = "training"


@cache
def shipped_runs() -> tuple[tuple[PublishedRun, ...], tuple[Refusal, ...]]:
    """The shipped published runs, and those that cannot be read."""
    runs, refused = read_runs(published_runs.rows())
    return tuple(runs), tuple(refused)


@cache
def load() -> Trained:
    """The shipped calibration of training steps."""
    trained = trained_from_json(calibrations.calibration(NAME))
    return replace(trained, neighbours=neighbours_of(trained.fitted, shipped_runs()[0]))


def trained_from_json(data: Mapping[str, Any]) -> Trained:
    """A calibration as `trained_json` wrote it."""
    validity = data["validity"]
    return Trained(
        Fitted(dict(data["constants"]), dict(data["effects"])),
        dict(data["interval_factors"]),
        frozenset(validity["stacks"]),
        frozenset(validity["accelerators"]),
        np.array(data["places"], dtype=np.float64),
    )


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
        "places": places(runs).round(3).tolist(),
    }


def half_widths(trained: Trained, runs: tuple[PublishedRun, ...]) -> dict[str, float]:
    """Half of a usual 90 % interval of the logarithm of a step's seconds, by condition: what a plan is given."""
    scale = float(np.median(forecast_runs(trained, runs).log_scale))
    return {name: round(scale * trained.factors[name], 4) for name in (FAMILIAR, UNSEEN)}
