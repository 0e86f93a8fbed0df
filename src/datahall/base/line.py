"""A line through measured times: what everything costs at once, and what each unit adds.

One fit for every probe and rehearsal.  It does not say how far the line may be off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def fit_line(at: ArrayLike, values: ArrayLike) -> tuple[float, float]:
    """Intercept and slope of the line with the least relative errors, neither below zero."""
    at, values = np.asarray(at, np.float64), np.asarray(values, np.float64)
    weighted = np.stack([1 / values, at / values], axis=1)
    intercept, slope = np.linalg.lstsq(weighted, np.ones(len(values)), rcond=None)[0]
    if slope <= 0:
        return float(np.median(values)), 0.0
    if intercept <= 0:
        return 0.0, float(np.median(values / at))
    return float(intercept), float(slope)
