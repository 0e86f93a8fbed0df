"""What generation takes here, fitted to a probe: constants from some sizes, intervals from the sizes left out.

For one model on one machine; it says nothing about another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.base.line import fit_line
from datahall.virtual.generation import GenerationCosts, Line, next_token_s, prompt_s

LEAST_SPREAD = 0.10  # share by which runs of one setting differ from minute to minute on a shared machine
_MOVE_SPREAD = 0.5  # of moving blocks: microseconds, of which the processor's caches decide the most

Floats = NDArray[np.float64]


def fit_generation(findings: Mapping[str, Any]) -> GenerationCosts:
    """The costs behind what `real.generation_probe` found.

    Every second size is fitted and the others judge: the largest error among them is half the interval.
    """
    prompts = _fitted(findings["prompts"], prompt_s)
    steps = _fitted(findings["steps"], next_token_s)
    moved = {kind: _line(findings[kind]) for kind in ("look", "fill", "keep", "touch", "read", "write")}
    (prompt_constants, prompt_spread), (step_constants, step_spread) = prompts, steps
    return GenerationCosts(
        *prompt_constants,
        *step_constants,
        **moved,
        prompt_spread=prompt_spread,
        step_spread=step_spread,
        move_spread=_MOVE_SPREAD,
    )


def _fitted(
    points: Sequence[tuple[int, int, Sequence[float]]], formula: Any
) -> tuple[tuple[float, float, float], float]:
    """The three constants of `formula`, and how far it misses the points that were left out (or their scatter)."""
    first, second = (np.array([point[column] for point in points], np.float64) for column in (0, 1))
    runs = np.array([point[2] for point in points], np.float64)
    medians = np.median(runs, axis=1)
    fitted = np.arange(len(points)) % 2 == 0
    columns = np.stack([formula(first, second, *unit) * np.ones(len(points)) for unit in np.eye(3)], axis=1)
    constants = non_negative(columns[fitted], medians[fitted])
    missed = np.abs(columns[~fitted] @ constants / medians[~fitted] - 1)
    low, high = np.quantile(runs / medians[:, None], [0.05, 0.95], axis=1)
    spread = max(LEAST_SPREAD, float(missed.max(initial=0.0)), float(np.median(high - low)) / 2)
    fixed, single, pair = (float(one) for one in constants)
    return (fixed, single, pair), spread


def non_negative(columns: Floats, values: Floats) -> Floats:
    """Constants with the least relative errors, none below zero: what would be is left out, the worst first."""
    used = list(range(columns.shape[1]))
    while True:
        weighted = columns[:, used] / values[:, None]
        found = np.linalg.lstsq(weighted, np.ones(len(values)), rcond=None)[0]
        if len(used) == 1 or found.min() >= 0:
            constants = np.zeros(columns.shape[1])
            constants[used] = np.maximum(found, 0.0)
            return constants
        used.pop(int(np.argmin(found * columns[:, used].max(axis=0))))


def _line(points: Sequence[tuple[int, int, Sequence[float]]]) -> Line:
    """Seconds each and by byte; nothing where nothing was moved."""
    if not points:
        return Line(0.0, 0.0)
    return Line(*fit_line([point[0] for point in points], [float(np.median(point[2])) for point in points]))
