"""What the fit left unexplained of published runs, passed on to runs of the same stack with similar plans.

Simple kriging: one covariance, the same for every stack, of log residuals; runs of other stacks say nothing here (what
they have in common is in the constants).  Where nearby runs are further from what their own neighbours say of them than
usual, so may be the next one.  Constants are not moved; that is `fit`'s and `shot`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.design import design
from datahall.calibrate.fit import Fitted
from datahall.calibrate.published import PublishedRun
from datahall.calibrate.shot import distances

Floats = NDArray[np.float64]

PLAN_LOG_SD = 0.10  # of what the fit leaves unexplained and plans share
NOISE_LOG_SD = 0.03
_OTHER_ACCELERATOR = 0.7  # what is left of the covariance on another accelerator
_OTHER_RELEASE = 0.85  # and in another release
_OTHER_TASK = 0.7  # and between a frozen model with adapters and one that is trained as a whole
_CAVEAT_LOG_SD = 0.08  # noise of a run that its source publishes with a caveat
_ROUGH_POWER = 5.0  # of the correlation: only close runs tell how rough it is here
_ROUGH_PRIOR = 1.0  # runs of usual roughness that the close ones are averaged with
_USUAL_SURPRISE = 2.5  # standard deviations: more is an accident and no part of what is usual
_MOST_SURPRISE = 8.0
_MOST_RESIDUAL = 0.4  # a run further off than this is taken for an accident, not for a property of its neighbours


@dataclass(frozen=True, slots=True)
class Told:
    """What fitted runs tell of others: a log correction, the share of the variance left open, and what is a repeat.

    `roughness` multiplies the width of an interval: 1 where fitted runs nearby are as near to one another as usual.
    """

    log_correction: Floats
    unexplained: Floats
    repeated: NDArray[np.bool_]
    roughness: Floats


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Fitted runs with the kriging weights of their residuals, and the inverse of their covariance."""

    runs: tuple[PublishedRun, ...] = ()
    weights: Floats = field(default_factory=lambda: np.zeros(0), repr=False)
    inverse: Floats = field(default_factory=lambda: np.zeros((0, 0)), repr=False)

    def tell(self, runs: Sequence[PublishedRun]) -> Told:
        """What the residuals of the fitted runs say of the logarithm of the forecasts of `runs`."""
        if not self.runs or not runs:
            return Told(np.zeros(len(runs)), np.ones(len(runs)), np.zeros(len(runs), dtype=bool), np.ones(len(runs)))
        across = covariance(runs, self.runs)
        explained = np.einsum("ij,jk,ik->i", across, self.inverse, across, optimize=True) / PLAN_LOG_SD**2
        alike = across / PLAN_LOG_SD**2
        repeated = alike.max(axis=1) > 1.0 - 1e-6
        return Told(across @ self.weights, np.clip(1.0 - explained, 0.0, 1.0), repeated, self._roughness(alike))

    def log_correction(self, runs: Sequence[PublishedRun]) -> Floats:
        """What the residuals of the fitted runs add to the logarithm of the forecasts of `runs`."""
        return self.tell(runs).log_correction

    def _roughness(self, alike: Floats) -> Floats:
        """Root of the mean squared surprise of close runs over that of all; a left-out residual is a surprise."""
        surprise = np.abs(self.weights) / np.sqrt(np.diag(self.inverse))
        usual = float(np.mean(np.minimum(surprise, _USUAL_SURPRISE) ** 2))
        near = alike**_ROUGH_POWER
        squares = near @ np.minimum(surprise, _MOST_SURPRISE) ** 2 + _ROUGH_PRIOR * usual
        return np.asarray(np.sqrt(squares / (near.sum(axis=1) + _ROUGH_PRIOR)), dtype=np.float64)


def neighbours_of(fitted: Fitted, runs: Sequence[PublishedRun]) -> Neighbours:
    """The residuals of `runs` under `fitted`, ready to be passed on."""
    if not runs:
        return Neighbours()
    residual = np.log([run.step_s for run in runs]) - fitted.log_seconds(runs, design(runs))
    noise = np.array([NOISE_LOG_SD if run.quality == "A" else _CAVEAT_LOG_SD for run in runs])
    inverse = np.asarray(np.linalg.inv(covariance(runs, runs) + np.diag(noise**2)), dtype=np.float64)
    return Neighbours(tuple(runs), inverse @ np.clip(residual, -_MOST_RESIDUAL, _MOST_RESIDUAL), inverse)


def covariance(runs: Sequence[PublishedRun], others: Sequence[PublishedRun]) -> Floats:
    """Covariance of unexplained logarithms: alike plans of one stack err alike."""
    stack = _same([run.stack for run in runs], [run.stack for run in others])
    device = _same([run.accelerator.name for run in runs], [run.accelerator.name for run in others])
    release = _same([run.release for run in runs], [run.release for run in others])
    task = _same([run.adapters is None for run in runs], [run.adapters is None for run in others])
    shared = np.where(device, 1.0, _OTHER_ACCELERATOR) * np.where(release, 1.0, _OTHER_RELEASE)
    shared = shared * np.where(task, 1.0, _OTHER_TASK)
    return PLAN_LOG_SD**2 * np.exp(-distances(runs, others)) * np.where(stack, shared, 0.0)


def _same(left: Sequence[str | bool], right: Sequence[str | bool]) -> NDArray[np.bool_]:
    return np.array(left)[:, None] == np.array(right)[None, :]
