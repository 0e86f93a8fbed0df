"""Fit what an engine keeps in memory beside the states that follow from counting: activations' copies, a reserve.

Two constants, held near their first guess by a prior; the spread comes from left-out runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datahall.calibrate.local import conformal_quantile

# Both of twenty configurations run on a machine of two cores, none of which is ever held out (prove.configurations).
FIRST_PASSES = 1.7  # eager kernels keep inputs of norms, rotations and products apart
FIRST_RESERVE_BYTES = 28e6  # the engine's buffers, the gradient's workspace
_PRIOR_PASSES = 1.0
_PRIOR_RESERVE_BYTES = 40e6
_NOISE_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """`activation_passes` multiplies the activations of the memory model, `reserved_bytes` is there in any case."""

    activation_passes: float = FIRST_PASSES
    reserved_bytes: float = FIRST_RESERVE_BYTES
    spread: float = 0.47  # of the logarithm, to either end of the 90 % interval

    def bytes(self, states: float, activations: float) -> float:
        """Peak bytes of one process above idle."""
        return states + self.activation_passes * activations + self.reserved_bytes


def fit_memory(points: Sequence[tuple[float, float, float]]) -> MemoryFit:
    """The fit to (state bytes, activation bytes, measured peak bytes) of several runs."""
    fitted = _solve(points)
    errors: list[float] = []
    for index, (states, activations, measured) in enumerate(points):
        others = [*points[:index], *points[index + 1 :]]
        errors.append(abs(math.log(measured / _solve(others).bytes(states, activations))))
    return MemoryFit(fitted.activation_passes, fitted.reserved_bytes, conformal_quantile(errors))


def _solve(points: Sequence[tuple[float, float, float]]) -> MemoryFit:
    if not points:
        return MemoryFit()
    states, activations, measured = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    noise = _NOISE_SHARE * measured
    rows = np.vstack(
        [
            np.column_stack([activations / noise, 1.0 / noise]),
            [1.0 / _PRIOR_PASSES, 0.0],
            [0.0, 1.0 / _PRIOR_RESERVE_BYTES],
        ]
    )
    right = np.concatenate(
        [(measured - states) / noise, [FIRST_PASSES / _PRIOR_PASSES, FIRST_RESERVE_BYTES / _PRIOR_RESERVE_BYTES]]
    )
    passes, reserve = np.linalg.lstsq(rows, right, rcond=None)[0]
    return MemoryFit(max(0.1, float(passes)), max(0.0, float(reserve)))
