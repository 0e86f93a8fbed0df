"""A few measured rows of a stack correct its forecasts: kriging of log residuals under a physical covariance.

Two runs err alike as far as they lean on the same constants, share stack, release, model or accelerator, and have
similar plans.  Everything is linear about the fitted constants, so that ten rows take no iterations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.design import Design, design
from datahall.calibrate.fit import Fitted, constant_log_sds, effect_names, linearised
from datahall.calibrate.published import PublishedRun

Floats = NDArray[np.float64]

CONSTANT_SHARE = 1.0  # of a constant's prior width by which stacks differ from one another
EFFECT_LOG_SD = {"stack": 0.12, "release": 0.05, "accelerator": 0.06, "model": 0.05}
MIXTURE_LOG_SD = 0.20  # what mixtures of experts on one stack share, near releases more than far ones
RELEASE_YEARS = 2.0  # after which releases of a stack have little left in common
PLAN_LOG_SD = 0.25  # what plans of one stack have of their own, alike for alike plans
PLAN_LENGTH = 4.0  # distance at which plans of one stack hardly tell of one another
NOISE_LOG_SD = 0.04
_ODD = 2.0  # standard deviations at which a row that its fellows do not expect begins to count for less
_ALIKE_POWER = 3.0  # of the correlation: rows that are alike tell how far off the forecast of the next one may be
_ROUGH_PRIOR = 1.0  # rows as far off as the covariance expects that they are averaged with
MOST_ROWS = 10


@dataclass(frozen=True, slots=True)
class Corrected:
    """Log corrections of some runs, the share of the variance that the seen rows leave open, and how unsure kriging is.

    Both widen where the seen rows that are most alike are further off, each forecast from the others, than the
    covariance expects, so that the share may pass 1, and shrink where they are nearer.
    """

    log_correction: Floats
    unexplained: Floats
    log_sd: Floats


def correct(
    fitted: Fitted,
    seen: Sequence[PublishedRun],
    runs: Sequence[PublishedRun],
    arrays: Design | None = None,
    explained: Floats | float = 0.0,
) -> Corrected:
    """What `seen` runs say about the forecasts of `runs`; `explained` is what neighbours already said of them."""
    if not seen:
        ones = np.ones(len(runs))
        return Corrected(0.0 * ones, ones, ones)
    slopes = linearised(arrays or design(runs), fitted.log_constants())[1]
    base, known_slopes = linearised(design(seen), fitted.log_constants())
    effects = np.array([fitted.effect(run) for run in seen])
    residual = np.log([run.step_s for run in seen]) - base - effects - explained
    inverse = _robust_inverse(_covariance(seen, known_slopes, seen, known_slopes), residual)
    across = _covariance(runs, slopes, seen, known_slopes)
    own, known = _own_variance(runs, slopes), _own_variance(seen, known_slopes)
    share = np.einsum("ij,jk,ik->i", across, inverse, across, optimize=True) / own
    surprise = (inverse @ residual) ** 2 / np.diag(inverse)  # squared, of each row beside what the others say of it
    alike = (across / np.sqrt(np.outer(own, known))) ** _ALIKE_POWER
    rough = (alike @ surprise + _ROUGH_PRIOR) / (alike.sum(axis=1) + _ROUGH_PRIOR)
    unexplained = rough * np.clip(1.0 - share, 0.0, 1.0)
    return Corrected(across @ inverse @ residual, unexplained, np.sqrt(unexplained * own + NOISE_LOG_SD**2))


def features(run: PublishedRun) -> Floats:
    """Where a run stands among plans: logarithms of its sizes and degrees, and its kind of arithmetic."""
    plan = run.variants[0].plan
    bits = {"fp8": 1.0, "fp4": 2.0}.get(plan.precision, 0.0)
    tokens = plan.micro_batch * run.sequence / plan.context
    logs = [
        np.log2(run.shape.hidden) / 2,
        np.log2(run.shape.layers) / 2,
        np.log2(tokens) / 3,
        np.log2(run.sequence) / 2,
        np.log2(run.devices) / 5,
        np.log2(plan.tensor) / 1.5,
        np.log2(plan.pipeline) / 2,
        np.log2(plan.context) / 2,
        np.log2(plan.expert) / 3,
        np.log2(plan.accumulation) / 4,
        bits,
        2.0 * (run.shape.experts > 0),
        {"none": 0.0, "selective": 0.5, "keep-attention": 0.7, "keep-qkv": 0.85, "full": 1.0}[plan.recompute],
        {"eager": 0.0, "compiled": 1.0, "fused": 2.0, "old": 3.0, "xla": 4.0}[run.traits.issue],
        1.0 * run.traits.overlap,
        1.5 * run.traits.rowwise,
        0.5 * run.traits.block_scales,
        1.5 * run.traits.token_drop,
    ]
    return np.array(logs)


def distances(runs: Sequence[PublishedRun], others: Sequence[PublishedRun]) -> Floats:
    """Distance between runs among plans (1: about a doubling or two of one size)."""
    left, right = np.array([features(run) for run in runs]), np.array([features(run) for run in others])
    return np.sqrt(np.maximum(0.0, ((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)))


def _covariance(
    runs: Sequence[PublishedRun], slopes: Floats, others: Sequence[PublishedRun], other_slopes: Floats
) -> Floats:
    scale = (CONSTANT_SHARE * constant_log_sds()) ** 2
    shared = (slopes * scale) @ other_slopes.T
    for index, (name, sd) in enumerate(EFFECT_LOG_SD.items()):
        left = np.array([effect_names(run)[index] for run in runs])
        right = np.array([effect_names(run)[index] for run in others])
        if name != "release":
            shared = shared + sd**2 * (left[:, None] == right[None, :])
    mixtures = np.array([run.shape.experts > 0 for run in runs])[:, None] & [run.shape.experts > 0 for run in others]
    release_variance = EFFECT_LOG_SD["release"] ** 2 + MIXTURE_LOG_SD**2 * mixtures
    shared = shared + release_variance * _releases_alike(runs, others)
    stack = np.array([run.stack for run in runs])[:, None] == np.array([run.stack for run in others])[None, :]
    return shared + PLAN_LOG_SD**2 * np.exp(-distances(runs, others) / PLAN_LENGTH) * np.where(stack, 1.0, 0.3)


def _releases_alike(runs: Sequence[PublishedRun], others: Sequence[PublishedRun]) -> Floats:
    """1 for the same release of a stack, less for one that is years away, 0 where nobody can tell how far it is."""
    left, right = ([effect_names(run)[1] for run in some] for some in (runs, others))
    same = np.array(left)[:, None] == np.array(right)[None, :]
    stacks = np.array([run.stack for run in runs])[:, None] == np.array([run.stack for run in others])[None, :]
    apart = np.abs(
        np.array([_year(run.traits.release) for run in runs])[:, None]
        - np.array([_year(run.traits.release) for run in others])[None, :]
    )
    return np.where(same, 1.0, np.where(stacks & np.isfinite(apart), np.exp(-apart / RELEASE_YEARS), 0.0))


def _year(release: str) -> float:
    """The year of a release that is named by year and month ("25.09"); NaN otherwise."""
    dated = re.match(r"(2\d)\.(0[1-9]|1[0-2])(?!\d)", release)
    return int(dated[1]) + (int(dated[2]) - 1) / 12 if dated else np.nan


def _own_variance(runs: Sequence[PublishedRun], slopes: Floats) -> Floats:
    constants = np.sum((slopes * CONSTANT_SHARE * constant_log_sds()) ** 2, axis=1)
    mixtures = MIXTURE_LOG_SD**2 * np.array([run.shape.experts > 0 for run in runs])
    return constants + sum(sd**2 for sd in EFFECT_LOG_SD.values()) + mixtures + PLAN_LOG_SD**2


def _robust_inverse(within: Floats, residual: Floats) -> Floats:
    """The inverse of the covariance of the seen rows, noisier where a row is far from what the others say of it."""
    noise = np.full(len(residual), NOISE_LOG_SD**2)
    inverse = np.linalg.inv(within + np.diag(noise))
    for _ in range(3 if len(residual) > 3 else 0):
        alone = 1.0 / np.diag(inverse)
        left_out = np.abs(inverse @ residual) * alone  # the row less what the others say of it
        odd = np.maximum(0.0, left_out - _ODD * np.sqrt(alone - noise + NOISE_LOG_SD**2))
        noise = NOISE_LOG_SD**2 + odd**2
        inverse = np.linalg.inv(within + np.diag(noise))
    return np.asarray(inverse, dtype=np.float64)
