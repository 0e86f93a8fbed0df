"""Leaving families, accelerators and models out: held-out residuals, and from them the intervals' factors.

Intervals are made from residuals of runs that the fit never saw; only those of a repeat of a fitted run, which is no
forecast, come from the fit's own residuals.  Reports are `judge`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.fit import Fitted, fit
from datahall.calibrate.forecasting import (
    FAMILIAR,
    REPEATED,
    SHOT,
    SHOT_FAMILIAR,
    UNSEEN,
    Forecasts,
    Trained,
    forecast_runs,
    places,
)
from datahall.calibrate.neighbours import neighbours_of
from datahall.calibrate.published import PublishedRun
from datahall.calibrate.shot import MOST_ROWS

Floats = NDArray[np.float64]
Key = Callable[[PublishedRun], str]

_COVERAGE = 0.90  # what the intervals say of themselves
_FOLDS = 4
_DRAWS = 16  # of the rows that are shown: with four, half-width over median error is 2.5 to 3.3 by the draw


def group_of(run: PublishedRun) -> str:
    """The family of measurements."""
    return run.group


def accelerator_of(run: PublishedRun) -> str:
    """The accelerator."""
    return run.accelerator.name


def model_fold_of(run: PublishedRun) -> str:
    """One of a few folds, by model: whole models of a family are left out together."""
    return str(sum(ord(letter) for letter in f"{run.group} {run.model}") % _FOLDS)


_fits: dict[tuple[str, ...], Fitted] = {}


def trained_on(
    runs: Sequence[PublishedRun], factors: Mapping[str, float], start: Mapping[str, float] | None = None
) -> Trained:
    """Constants fitted to `runs`, with given interval factors; the same runs are fitted once."""
    name = tuple(f"{run.group} {run.key}" for run in runs)
    if name not in _fits:
        _fits[name] = fit(runs, start=start)
    return with_factors(_fits[name], runs, factors)


def with_factors(fitted: Fitted, runs: Sequence[PublishedRun], factors: Mapping[str, float]) -> Trained:
    """A fit to `runs` with what intervals need."""
    return Trained(
        fitted,
        factors,
        Counter(run.stack for run in runs),
        Counter(run.accelerator.name for run in runs),
        Counter(run.accelerator.vendor for run in runs),
        places(runs),
        neighbours_of(fitted, runs),
    )


def left_out_forecasts(
    runs: Sequence[PublishedRun],
    train: Sequence[PublishedRun],
    key: Key,
    factors: Mapping[str, float],
    *,
    start: Mapping[str, float] | None = None,
    seen: Sequence[PublishedRun] = (),
) -> Forecasts:
    """Forecasts of `runs`, each from those of `train` whose `key` differs."""
    parts: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        parts.setdefault(key(run), []).append(index)
    seconds, low, high, scale = (np.zeros(len(runs)) for _ in range(4))
    condition = [""] * len(runs)
    for name, indices in parts.items():
        others = [run for run in train if key(run) != name]
        trained = trained_on(others, factors, start)
        found = forecast_runs(trained, [runs[index] for index in indices], seen)
        for target, values in (
            (seconds, found.seconds),
            (low, found.low),
            (high, found.high),
            (scale, found.log_scale),
        ):
            target[indices] = values
        for index, name_of in zip(indices, found.condition, strict=True):
            condition[index] = name_of
    return Forecasts(seconds, low, high, scale, tuple(condition))


def interval_factors(runs: Sequence[PublishedRun], start: Mapping[str, float]) -> dict[str, float]:
    """The factor of each condition: a quantile of left-out |log residual| over its scale, families weighing alike."""
    none: dict[str, float] = {}
    by_group = left_out_forecasts(runs, runs, group_of, none, start=start)
    by_accelerator = left_out_forecasts(runs, runs, accelerator_of, none, start=start)
    by_model = left_out_forecasts(runs, runs, model_fold_of, none, start=start)
    unseen = np.concatenate([_ratios(runs, by_group), _ratios(runs, by_accelerator)])
    families = [run.group for run in runs]
    fitted = forecast_runs(trained_on(runs, none, start), runs)
    return {
        REPEATED: family_quantile(_ratios(runs, fitted), families),
        FAMILIAR: family_quantile(_ratios(runs, by_model), families),
        UNSEEN: family_quantile(unseen, [*families, *families]),
        **_shot_factors(runs, start),
    }


def few_of(indices: Sequence[int], draw: int) -> list[int]:
    """At most ten of `indices`, half of them where there are few, drawn by a seeded generator."""
    count = min(MOST_ROWS, max(1, len(indices) // 2))
    return sorted(np.random.default_rng(draw).choice(indices, count, replace=False).tolist())


def ten_shot(
    runs: Sequence[PublishedRun], key: Key, factors: Mapping[str, float], start: Mapping[str, float] | None = None
) -> tuple[list[PublishedRun], Forecasts]:
    """The other runs of each left-out part after at most ten of its rows were seen, in `_DRAWS` draws of them."""
    judged: list[PublishedRun] = []
    parts: list[Forecasts] = []
    for name in dict.fromkeys(key(run) for run in runs):
        inside = [index for index, run in enumerate(runs) if key(run) == name]
        if len(inside) < 4:
            continue
        trained = trained_on([run for run in runs if key(run) != name], factors, start)
        for draw in range(_DRAWS):
            few = few_of(inside, draw)
            rest = [runs[index] for index in inside if index not in few]
            judged += rest
            parts.append(forecast_runs(trained, rest, [runs[index] for index in few]))
    return judged, _joined(parts)


def family_quantile(ratios: Floats, families: Sequence[str]) -> float:
    """The weighted quantile with the usual finite-sample step, families weighing by the root of their size."""
    sizes = Counter(families)
    weights = np.array([sizes[family] ** -0.5 for family in families])
    order = np.argsort(ratios)
    share = np.cumsum(weights[order]) / (weights.sum() + weights.max())
    place = int(np.searchsorted(share, _COVERAGE))
    return float(ratios[order][min(place, len(ratios) - 1)])


def _joined(parts: Sequence[Forecasts]) -> Forecasts:
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("seconds", "low", "high", "log_scale")
    }
    return Forecasts(**columns, condition=tuple(name for part in parts for name in part.condition))


def _shot_factors(runs: Sequence[PublishedRun], start: Mapping[str, float]) -> dict[str, float]:
    """One of families never fitted, one of those fitted elsewhere; some runs have no row shown that is near."""
    judged = [ten_shot(runs, key, {}, start) for key in (group_of, accelerator_of)]
    owners = [run.group for rest, _ in judged for run in rest]
    ratios = np.concatenate([_ratios(*one) for one in judged])
    condition = np.array([name for _, found in judged for name in found.condition])
    return {
        name: family_quantile(ratios[condition == name], list(compress(owners, condition == name)))
        for name in (SHOT, SHOT_FAMILIAR)
    }


def _ratios(runs: Sequence[PublishedRun], found: Forecasts) -> Floats:
    return np.abs(np.log([run.step_s for run in runs]) - np.log(found.seconds)) / found.log_scale
