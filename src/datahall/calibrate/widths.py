"""How uncertain a forecast of a published run is before it is scaled by its condition: what nobody has seen of it.

Variances of the logarithm add up: how well the fit knows the constants that the step leans on; a stack, an accelerator
and a maker of accelerators with few fitted runs; the share of the step that experts take; distance from all fitted
plans.  All of it shrinks by what neighbours of the same stack and rows shown explain; the noise of a published figure,
the row's own blanks and what a network does to the step stay.  The widths were fitted by likelihood to runs of
families, accelerators and models left out, but for those that say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.design import Design
from datahall.calibrate.fit import Fitted, linearised
from datahall.calibrate.published import PublishedRun
from datahall.virtual.traits import UNSTATED
from datahall.virtual.transferred import ADAPTERS_LOG_SD

Floats = NDArray[np.float64]

CONSTANTS_SHARE = 0.4  # of the variance that the fitted constants leave open
PLAN_LOG_SD = 0.065  # what the model leaves out of any plan
STACK_LOG_SD = 0.09  # habits of a stack that no fitted run has
UNSTATED_STACK_LOG_SD = 0.20  # what fitted runs are off by, most families, when their stack is kept from the forecast
ACCELERATOR_LOG_SD = 0.09
MAKER_LOG_SD = 0.20  # of accelerators whose maker has no other fitted run: set on four runs on Trainium
MIXTURE_LOG_SD = 0.35  # of the share of the step that experts and their exchange take
FIRST_MIXTURE_LOG_SD = 0.45  # the same, where no fitted run is a mixture
DISTANCE_LOG_SD = 0.055  # per unit of distance beyond one from the nearest fitted plan
TRANSFER_LOG_SD = 0.30  # of the share of the step that transfers add: every cluster's network is its own
NOISE_LOG_SD = 0.023  # of a published figure
CAVEAT_LOG_SD = 0.03  # of one published with a caveat
BLANKS_SHARE = 0.35  # of half the range over the readings of a row, and from the usual network to a poor one
_FEW_RUNS = 5.0  # runs of a stack or accelerator that leave half of it open


@dataclass(frozen=True, slots=True)
class Novelty:
    """What was seen of each run before: the share that neighbours and shown rows leave open, fitted runs of its stack,
    its accelerator and that one's maker, fitted mixtures of experts in all, distance to the nearest known plan, and
    whether the very plan was fitted."""

    unexplained: Floats
    stack_runs: NDArray[Any]
    accelerator_runs: NDArray[Any]
    maker_runs: NDArray[Any]
    mixture_runs: int
    distance: Floats
    repeated: NDArray[np.bool_]


def log_scales(fitted: Fitted, runs: Sequence[PublishedRun], arrays: Design, novelty: Novelty) -> Floats:
    """Standard deviations of the logarithm of the forecasts of `runs`, up to the factor of their condition."""
    steps = arrays.steps(fitted.constants)
    mixture = arrays.mean((steps.experts + steps.expert_exchange) / steps.total)
    apart = np.maximum(0.0, novelty.distance - 1.0)
    open_variance = (
        CONSTANTS_SHARE * _constants_variance(fitted, arrays)
        + PLAN_LOG_SD**2
        + _unknown(novelty.stack_runs) * STACK_LOG_SD**2
        + np.array([run.traits.family == UNSTATED for run in runs]) * UNSTATED_STACK_LOG_SD**2
        + _unknown(novelty.accelerator_runs) * ACCELERATOR_LOG_SD**2
        + _unknown(novelty.maker_runs) * MAKER_LOG_SD**2
        + (MIXTURE_LOG_SD**2 + _unknown(novelty.mixture_runs) * FIRST_MIXTURE_LOG_SD**2) * mixture**2
        + (DISTANCE_LOG_SD * apart) ** 2
        + np.array([bool(run.adapters) for run in runs]) * ADAPTERS_LOG_SD**2
        + np.where([run.network_stated for run in runs], 0.0, BLANKS_SHARE * _half_poor(fitted, arrays)) ** 2
    )
    noise = np.array([NOISE_LOG_SD if run.quality == "A" else CAVEAT_LOG_SD for run in runs])
    blanks = BLANKS_SHARE * arrays.spread(arrays.scale * steps.total)
    network = TRANSFER_LOG_SD * np.where(novelty.repeated, 0.0, arrays.mean(steps.transfer / steps.total))
    return np.sqrt(novelty.unexplained * open_variance + noise**2 + blanks**2 + network**2)


def nearest(places: Floats, known: Floats) -> Floats:
    """Distance of each place to the nearest known one."""
    squares = (places**2).sum(axis=1)[:, None] + (known**2).sum(axis=1)[None, :] - 2.0 * places @ known.T
    return np.sqrt(np.maximum(0.0, squares.min(axis=1)))


def _constants_variance(fitted: Fitted, arrays: Design) -> Floats:
    if fitted.precision is None:
        return np.zeros(arrays.runs)
    slopes = linearised(arrays, fitted.log_constants())[1]
    return np.einsum("ij,ji->i", slopes, np.linalg.solve(fitted.precision, slopes.T))


def _half_poor(fitted: Fitted, arrays: Design) -> Floats:
    """Half the range of the logarithm from the usual network to a poor one.

    Runs of one group share their network, so that rows shown and neighbours tell of it.
    """
    return 0.5 * arrays.longer_on_poor_network(fitted.constants)


def _unknown(runs: Any) -> Any:
    return _FEW_RUNS / (runs + _FEW_RUNS)
