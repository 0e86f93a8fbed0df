"""Forecasts of published runs with 90 % intervals, from fitted constants and, where given, a few rows of the stack.

How wide an interval is follows from three things: what the row leaves open, how far the run is from those that were
fitted, and a factor per condition (familiar stack, unseen stack, a few rows seen) from left-out residuals (split
conformal prediction).  Scores are `judge`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.design import design
from datahall.calibrate.fit import Fitted
from datahall.calibrate.neighbours import Neighbours
from datahall.calibrate.published import PublishedRun
from datahall.calibrate.shot import correct, features

Floats = NDArray[np.float64]

FAMILIAR, UNSEEN, SHOT = "familiar", "unseen", "shot"
_WIDER_PER_DISTANCE = 0.15  # of an interval, for each unit of distance beyond one from the nearest fitted run


@dataclass(frozen=True, slots=True)
class Trained:
    """Fitted constants with what intervals need: factors by condition, and where the fitted runs lie."""

    fitted: Fitted
    factors: Mapping[str, float]
    stacks: frozenset[str]
    accelerators: frozenset[str]
    places: Floats = field(repr=False)
    neighbours: Neighbours = field(default_factory=Neighbours, repr=False)


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Seconds of each run's step with the ends of the 90 % interval; `log_scale` is the width before the factor."""

    seconds: Floats
    low: Floats
    high: Floats
    log_scale: Floats
    condition: tuple[str, ...]


def forecast_runs(trained: Trained, runs: Sequence[PublishedRun], seen: Sequence[PublishedRun] = ()) -> Forecasts:
    """Forecasts of `runs`; `seen` are measured rows that correct those of their own stack and accelerator."""
    if not runs:
        nothing = np.zeros(0)
        return Forecasts(nothing, nothing, nothing, nothing, ())
    arrays = design(runs)
    plain = trained.fitted.log_seconds(runs, arrays)
    blanks = arrays.spread(arrays.scale * arrays.steps(trained.fitted.constants).total)
    near = relevant(runs, seen)
    corrected = correct(trained.fitted, seen, runs, arrays, trained.neighbours.log_correction(seen))
    own = correct(trained.fitted, (), runs, arrays)
    log_sd = np.where(near, corrected.log_sd, own.log_sd)
    logs = plain + trained.neighbours.log_correction(runs) + corrected.log_correction
    condition = tuple(_condition(trained, run, bool(close)) for run, close in zip(runs, near, strict=True))
    scale = np.sqrt(log_sd**2 + (0.5 * blanks) ** 2) * _widening(trained, runs, seen)
    half = scale * np.array([trained.factors.get(name, 2.0) for name in condition])
    return Forecasts(np.exp(logs), np.exp(logs - half), np.exp(logs + half), scale, condition)


def relevant(runs: Sequence[PublishedRun], seen: Sequence[PublishedRun]) -> NDArray[np.bool_]:
    """Which runs have seen ones of their own stack, group or accelerator."""
    stacks = {(run.stack, run.accelerator.name) for run in seen}
    groups = {run.group for run in seen}
    return np.array([run.group in groups or (run.stack, run.accelerator.name) in stacks for run in runs], dtype=bool)


def places(runs: Sequence[PublishedRun]) -> Floats:
    """Where runs lie among plans, one row each, duplicates left out."""
    return np.unique(np.array([features(run) for run in runs]).round(3), axis=0)


def _condition(trained: Trained, run: PublishedRun, near: bool) -> str:
    if near:
        return SHOT
    known = run.stack in trained.stacks and run.accelerator.name in trained.accelerators
    return FAMILIAR if known else UNSEEN


def _widening(trained: Trained, runs: Sequence[PublishedRun], seen: Sequence[PublishedRun]) -> Floats:
    here = np.array([features(run) for run in runs])
    known = np.vstack([trained.places, np.array([features(run) for run in seen])]) if seen else trained.places
    squares = (here**2).sum(axis=1)[:, None] + (known**2).sum(axis=1)[None, :] - 2.0 * here @ known.T
    nearest = np.sqrt(np.maximum(0.0, squares.min(axis=1)))
    return 1.0 + _WIDER_PER_DISTANCE * np.maximum(0.0, nearest - 1.0)
