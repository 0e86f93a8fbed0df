"""Forecasts of published runs with 90 % intervals, from fitted constants and, where given, a few rows of the stack.

How wide an interval is follows from what nobody has seen of the run (`widths`) and from a factor per condition: a
repeat of a fitted run, a familiar stack, an unseen one, a few rows seen of a family of runs that was fitted elsewhere
or of one that never was.  The factors come from left-out residuals
(split conformal prediction).  Scores are `judge`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.design import Design, design
from datahall.calibrate.fit import Fitted
from datahall.calibrate.neighbours import Neighbours
from datahall.calibrate.published import PublishedRun
from datahall.calibrate.shot import correct, features
from datahall.calibrate.widths import Novelty, log_scales, nearest

Floats = NDArray[np.float64]

REPEATED, FAMILIAR, UNSEEN = "repeated", "familiar", "unseen"
SHOT, SHOT_FAMILIAR = "shot", "shot-familiar"
_UNLIKELY = 0.05  # of a run's readings at either end, which its interval of 90 % need not hold


@dataclass(frozen=True, slots=True)
class Trained:
    """Fitted constants with what intervals need: factors by condition, fitted runs by stack, accelerator and maker."""

    fitted: Fitted
    factors: Mapping[str, float]
    stacks: Mapping[str, int]
    accelerators: Mapping[str, int]
    makers: Mapping[str, int]
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
    """Forecasts of `runs`; `seen` are measured rows that correct those of their group, stack or accelerator."""
    if not runs:
        nothing = np.zeros(0)
        return Forecasts(nothing, nothing, nothing, nothing, ())
    arrays = design(runs)
    plain = trained.fitted.log_seconds(runs, arrays)
    near = relevant(runs, seen)
    told = trained.neighbours.tell(runs)
    corrected = correct(trained.fitted, seen, runs, arrays, trained.neighbours.log_correction(seen))
    logs = plain + told.log_correction + np.where(_akin(runs, seen), corrected.log_correction, 0.0)
    families = {run.group for run in trained.neighbours.runs}
    condition = tuple(
        _condition(trained, run, run.group in families, bool(close), bool(same))
        for run, close, same in zip(runs, near, told.repeated, strict=True)
    )
    left = told.unexplained * np.where(near, corrected.unexplained, 1.0)
    scale = log_scales(trained.fitted, runs, arrays, _novelty(trained, runs, seen, left, told.repeated))
    both = (scale**-2 + corrected.log_sd**-2) / 2.0  # two widths of one error: the mean of their precisions
    scale = np.where(near, both**-0.5, told.roughness * scale)
    half = scale * np.array([trained.factors.get(name, 2.0) for name in condition])
    below, above = _readings(trained.fitted, arrays, left)
    low, high = np.minimum(logs - half, logs + below), np.maximum(logs + half, logs + above)
    return Forecasts(np.exp(logs), np.exp(low), np.exp(high), scale, condition)


def relevant(runs: Sequence[PublishedRun], seen: Sequence[PublishedRun]) -> NDArray[np.bool_]:
    """Which runs have seen ones of their group, or of both their stack and their accelerator."""
    stacks = {(run.stack, run.accelerator.name) for run in seen}
    groups = {run.group for run in seen}
    return np.array([run.group in groups or (run.stack, run.accelerator.name) in stacks for run in runs], dtype=bool)


def _readings(fitted: Fitted, arrays: Design, unexplained: Floats) -> tuple[Floats, Floats]:
    """How far, as logarithms, the readings of each run's blanks lie from their mean, but for an unlikely twentieth.

    Less where known runs of the stack tell which one it was.
    """
    seconds = arrays.scale * arrays.steps(fitted.constants).total
    open_share = np.sqrt(np.minimum(1.0, unexplained))
    ends = arrays.likely_readings(seconds, _UNLIKELY)
    below, above = (open_share * (np.log(end) - np.log(arrays.mean(seconds))) for end in ends)
    return below, above


def _akin(runs: Sequence[PublishedRun], seen: Sequence[PublishedRun]) -> NDArray[np.bool_]:
    """Which runs share a group, a stack or an accelerator with a seen one: what ails others tells nothing of them."""
    known = {name for run in seen for name in _names(run)}
    return np.array([not known.isdisjoint(_names(run)) for run in runs], dtype=bool)


def _names(run: PublishedRun) -> set[tuple[str, str]]:
    return {("group", run.group), ("stack", run.stack), ("accelerator", run.accelerator.name)}


def places(runs: Sequence[PublishedRun]) -> Floats:
    """Where runs lie among plans, one row each, duplicates left out."""
    return np.unique(np.array([features(run) for run in runs]).round(3), axis=0)


def _condition(trained: Trained, run: PublishedRun, fitted: bool, near: bool, repeated: bool) -> str:
    if near:
        return SHOT_FAMILIAR if fitted else SHOT
    if repeated:
        return REPEATED
    known = run.stack in trained.stacks and run.accelerator.name in trained.accelerators
    return FAMILIAR if known else UNSEEN


def _novelty(
    trained: Trained,
    runs: Sequence[PublishedRun],
    seen: Sequence[PublishedRun],
    left: Floats,
    repeated: NDArray[np.bool_],
) -> Novelty:
    known = np.vstack([trained.places, np.array([features(run) for run in seen])]) if seen else trained.places
    return Novelty(
        unexplained=left,
        stack_runs=np.array([trained.stacks.get(run.stack, 0) for run in runs]),
        accelerator_runs=np.array([trained.accelerators.get(run.accelerator.name, 0) for run in runs]),
        maker_runs=np.array([trained.makers.get(run.accelerator.vendor, 0) for run in runs]),
        mixture_runs=sum(run.shape.experts > 0 for run in trained.neighbours.runs),
        distance=nearest(np.array([features(run) for run in runs]), known),
        repeated=repeated,
    )
