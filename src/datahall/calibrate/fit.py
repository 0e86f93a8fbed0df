"""Fitting the constants to published runs: robust least squares of log seconds, every constant held by its prior.

What a software family, one of its releases or an accelerator adds is a random effect: shrunk towards nothing, used for
runs of the same family only.  Siblings of one configuration weigh as a few runs, not as many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.design import Design, design
from datahall.calibrate.published import PublishedRun
from datahall.virtual.constants import CONSTANTS, expected

Floats = NDArray[np.float64]

NOISE_LOG_SD = 0.06  # scatter of one published run about a step model: releases, clocks, what its row leaves out
CAVEAT_LOG_SD = 0.08  # what comes on top of it where its source publishes it with a caveat
EFFECT_LOG_SD = {"stack": 0.08, "release": 0.03, "accelerator": 0.05, "model": 0.03}
_LEAST_STEP = 1e-4
_NAMES = tuple(constant.name for constant in CONSTANTS)
_CENTRE = np.log([constant.expected for constant in CONSTANTS])
_WIDTH = np.array([constant.log_sd for constant in CONSTANTS])


@dataclass(frozen=True, slots=True)
class Fitted:
    """Fitted constants and effects ("stack:torchtitan" to a log multiplier), and how well they are known.

    `precision` is the inverse covariance of the logarithms of the constants.
    """

    constants: Mapping[str, float]
    effects: Mapping[str, float] = field(default_factory=dict)
    precision: Floats | None = None

    def log_constants(self) -> Floats:
        """The logarithms of the constants, in the order of `CONSTANTS`."""
        return np.log([self.constants[name] for name in _NAMES])

    def effect(self, run: PublishedRun) -> float:
        """The sum of the effects known for `run`, as a log multiplier of its seconds."""
        return sum(self.effects.get(name, 0.0) for name in effect_names(run))

    def log_seconds(self, runs: Sequence[PublishedRun], arrays: Design) -> Floats:
        """Logarithm of the forecast seconds of each run's step."""
        return np.log(arrays.seconds(self.constants)) + np.array([self.effect(run) for run in runs])


def effect_names(run: PublishedRun) -> tuple[str, ...]:
    """The random effects that a run takes part in."""
    return (
        f"stack:{run.stack}",
        f"release:{run.stack} {run.release}",
        f"accelerator:{run.accelerator.name}",
        f"model:{run.model}",
    )


def fit(runs: Sequence[PublishedRun], arrays: Design | None = None, start: Mapping[str, float] | None = None) -> Fitted:
    """Constants and effects from `runs`; the priors alone where there are none."""
    if not runs:
        return Fitted(expected(), {}, np.diag(1 / _WIDTH**2))
    arrays = arrays or design(runs)
    target = np.log([run.step_s for run in runs])
    weights = sibling_weights(runs)
    return solve(runs, arrays, target, weights, np.zeros(len(runs)), np.diag(1 / _WIDTH**2), _CENTRE, start)


def solve(
    runs: Sequence[PublishedRun],
    arrays: Design,
    target: Floats,
    weights: Floats,
    offset: Floats,
    prior: Floats,
    centre: Floats,
    start: Mapping[str, float] | None = None,
) -> Fitted:
    """Damped Gauss-Newton with soft-l1 weights on (target - offset - log seconds - effects) under the prior."""
    names, member, widths = _members(runs)
    logs = np.log([start[name] for name in _NAMES]) if start else centre.copy()
    effects = np.zeros(len(names))
    constants = len(_NAMES)
    normal = np.diag(np.full(constants + len(names), 1.0))
    cost = np.inf
    damping = 1e-3
    for _ in range(25):
        base, slopes = linearised(arrays, np.asarray(logs, dtype=np.float64))
        residual = target - offset - base - member @ effects
        scaled = residual / NOISE_LOG_SD
        robust = weights / np.sqrt(1.0 + scaled * scaled)
        normal = _normal(slopes, member, robust, prior, widths)
        gradient = np.hstack([slopes, member]).T @ (robust * residual) / NOISE_LOG_SD**2
        gradient[:constants] -= prior @ (logs - centre)
        gradient[constants:] -= effects / widths**2
        new_cost = float(np.sum(weights * (np.sqrt(1 + scaled**2) - 1))) + 0.5 * float(
            (logs - centre) @ prior @ (logs - centre) + np.sum((effects / widths) ** 2)
        )
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
        step[:constants] = np.clip(step[:constants], -0.3, 0.3)
        logs, effects = logs + step[:constants], effects + step[constants:]
        if abs(cost - new_cost) < 1e-6 * max(1.0, new_cost):
            break
        damping = damping * 0.5 if new_cost < cost else min(1.0, damping * 8)
        cost = new_cost
    values = {name: float(value) for name, value in zip(_NAMES, np.exp(logs), strict=True)}
    return Fitted(values, dict(zip(names, effects.tolist(), strict=True)), _marginal(normal))


def information(fitted: Fitted, runs: Sequence[PublishedRun]) -> Floats:
    """The inverse covariance of the logarithms of the constants, from `runs` and the priors, effects averaged out."""
    base, slopes = linearised(design(runs), fitted.log_constants())
    _, member, widths = _members(runs)
    known = np.array([fitted.effect(run) for run in runs])
    scaled = (np.log([run.step_s for run in runs]) - base - known) / NOISE_LOG_SD
    robust = sibling_weights(runs) / np.sqrt(1.0 + scaled * scaled)
    return _marginal(_normal(slopes, member, robust, np.diag(1 / _WIDTH**2), widths))


def constant_log_sds() -> Floats:
    """The widths of the constants' priors, in the order of `CONSTANTS`."""
    return _WIDTH


def sibling_weights(runs: Sequence[PublishedRun]) -> Floats:
    """Weights that let a family's or a configuration's many siblings count as a few runs."""
    cells = Counter(_cell(run) for run in runs)
    groups = Counter(run.group for run in runs)
    alone = np.array([cells[_cell(run)] ** -0.5 * min(1.0, (60.0 / groups[run.group]) ** 0.5) for run in runs])
    return alone / (1.0 + np.array([run.quality != "A" for run in runs]) * (CAVEAT_LOG_SD / NOISE_LOG_SD) ** 2)


def _members(runs: Sequence[PublishedRun]) -> tuple[list[str], Floats, Floats]:
    """The names of the effects, which runs take part in each, and their widths."""
    names = sorted({name for run in runs for name in effect_names(run)})
    column = {name: index for index, name in enumerate(names)}
    member = np.zeros((len(runs), len(names)))
    for row, run in enumerate(runs):
        for name in effect_names(run):
            member[row, column[name]] = 1.0
    return names, member, np.array([EFFECT_LOG_SD[name.split(":")[0]] for name in names])


def _normal(slopes: Floats, member: Floats, robust: Floats, prior: Floats, widths: Floats) -> Floats:
    """The matrix of the normal equations: runs' slopes and effects, weighted, and the priors of both."""
    jacobian = np.hstack([slopes, member])
    normal = jacobian.T @ (jacobian * (robust / NOISE_LOG_SD**2)[:, None])
    constants = slopes.shape[1]
    normal[:constants, :constants] += prior
    normal[constants:, constants:] += np.diag(1 / widths**2)
    return np.asarray(normal, dtype=np.float64)


def _marginal(normal: Floats) -> Floats:
    constants = len(_NAMES)
    return normal[:constants, :constants] - normal[:constants, constants:] @ np.linalg.solve(
        normal[constants:, constants:], normal[constants:, :constants]
    )


def _cell(run: PublishedRun) -> tuple[str, str, str]:
    return run.group, run.model, run.accelerator.name


def linearised(arrays: Design, logs: Floats) -> tuple[Floats, Floats]:
    """Log seconds at these constants, and their slopes: all of them in one call, a row for each constant moved."""
    moved = logs + np.vstack([np.zeros(len(logs)), _LEAST_STEP * np.eye(len(logs))])
    columns = {name: np.exp(moved[:, [index]]) for index, name in enumerate(_NAMES)}
    found = np.log(arrays.seconds(columns))
    return found[0], ((found[1:] - found[0]) / _LEAST_STEP).T
