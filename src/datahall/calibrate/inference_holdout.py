"""The forecast of inference judged on published figures that its constants were not fitted to, and its two factors.

Left out are families, models, engines, accelerators and their makers; and of a ratio, both of its accelerators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.holdout import family_quantile
from datahall.calibrate.inference_fit import EXPECTED, Loads, fit
from datahall.calibrate.inference_unseen import rate_residuals
from datahall.catalog.accelerators import accelerator
from datahall.catalog.published_inference import TokenFigure, unseen_figures
from datahall.virtual.serving_constants import ServingConstants

Floats = NDArray[np.float64]
PARTS: Mapping[str, Callable[[TokenFigure], str]] = {
    "family": lambda figure: figure.family,
    "model": lambda figure: figure.model,
    "engine": lambda figure: figure.engine,
    "accelerator": lambda figure: figure.accelerator,
    "maker": lambda figure: accelerator(figure.accelerator).vendor,
}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Two accelerators' figures at one load under one engine: log of forecast over measured ratio."""

    family: str
    accelerators: tuple[str, str]
    log_residual: float

    @property
    def one_maker(self) -> bool:
        """Whether both are of one maker."""
        one, other = (accelerator(name).vendor for name in self.accelerators)
        return one == other


def interval_factors(figures: Sequence[TokenFigure]) -> dict[str, float]:
    """Within which nine of ten left-out figures and ratios lie, families weighing by the root of their size.

    `figure` is of families and accelerators left out.  `ratio` is of pairs of accelerators that both were: of one maker
    and of two, the wider, since most pairs at hand are of one and most questions of two.
    """
    unseen = np.abs(np.concatenate([left_out_residuals(figures, PARTS[part]) for part in ("family", "accelerator")]))
    families = [figure.family for figure in figures]
    kinds: dict[bool, list[Ratio]] = {}
    for pair in ratios(figures):
        kinds.setdefault(pair.one_maker, []).append(pair)
    widest = max(
        family_quantile(np.abs([pair.log_residual for pair in pairs]), [pair.family for pair in pairs])
        for pairs in kinds.values()
    )
    return {
        "figure": float(np.exp(family_quantile(unseen, [*families, *families]))),
        "ratio": float(np.exp(widest)),
    }


def left_out_residuals(figures: Sequence[TokenFigure], key: Callable[[TokenFigure], str]) -> Floats:
    """Log of forecast over measured seconds, each from the figures whose `key` differs."""
    found = np.zeros(len(figures))
    names = np.array([key(figure) for figure in figures])
    for name in dict.fromkeys(names.tolist()):
        rest = [figure for figure, other in zip(figures, names, strict=True) if other != name]
        mine = [figure for figure, other in zip(figures, names, strict=True) if other == name]
        found[names == name] = residuals(mine, fit(rest))
    return found


def residuals(figures: Sequence[TokenFigure], constants: ServingConstants) -> Floats:
    """Log of forecast over measured seconds."""
    return Loads.of(figures).log_seconds(constants) - np.log([figure.token_s for figure in figures])


def ratios(figures: Sequence[TokenFigure]) -> list[Ratio]:
    """All pairs of accelerators at one load; several figures of one load (releases) are taken together first."""
    loads: dict[tuple[object, ...], dict[str, list[int]]] = {}
    for index, figure in enumerate(figures):
        loads.setdefault(_load(figure), {}).setdefault(figure.accelerator, []).append(index)
    pairs = [(load, one, other) for load, cards in loads.items() for one in cards for other in cards if one < other]
    without: dict[tuple[str, str], Floats] = {}
    for _, one, other in pairs:
        if (one, other) not in without:
            rest = [figure for figure in figures if figure.accelerator not in {one, other}]
            without[one, other] = residuals(figures, fit(rest))
    found: list[Ratio] = []
    for load, one, other in pairs:
        apart = without[one, other]
        residual = float(np.mean(apart[loads[load][one]]) - np.mean(apart[loads[load][other]]))
        found.append(Ratio(str(load[0]), (one, other), residual))
    return found


def held_out(
    figures: Sequence[TokenFigure], constants: ServingConstants, factors: Mapping[str, float]
) -> dict[str, Any]:
    """Errors by what was left out, of all figures and of each part; beside them those of the fit and of no fit."""
    within = factors["figure"]
    summary = {
        "no_fit": scores(residuals(figures, EXPECTED), within),
        "fit": scores(residuals(figures, constants), within),
    }
    table: dict[str, Any] = {"summary": summary}
    for part, key in PARTS.items():
        names = [key(figure) for figure in figures]
        summary[part], table[part] = _scored(left_out_residuals(figures, key), names, within)
    pairs, unseen = ratios(figures), unseen_figures()
    apart, names = np.array([pair.log_residual for pair in pairs]), [" over ".join(pair.accelerators) for pair in pairs]
    summary["ratio"], table["ratio"] = _scored(apart, names, factors["ratio"])
    rates, names = rate_residuals(unseen, constants), [figure.accelerator for figure in unseen]
    summary["unseen"], table["unseen"] = _scored(rates, names, within)
    return table


def scores(log_residuals: Floats, within: float) -> dict[str, float | int]:
    """How many, median and mean of |forecast / measured - 1|, the median of forecast / measured, and the share within.

    `within` is the factor of the interval.
    """
    apart = np.abs(np.expm1(log_residuals))
    return {
        "n_scored": len(apart),
        "median_ape": round(float(np.median(apart)), 4),
        "mean_ape": round(float(np.mean(apart)), 4),
        "median_ratio": round(float(np.exp(np.median(log_residuals))), 3),
        "interval_coverage_share": round(float(np.mean(np.abs(log_residuals) <= np.log(within))), 4),
    }


def _scored(log_residuals: Floats, names: Sequence[str], within: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of all, and of each name's."""
    parts = {name: scores(log_residuals[np.array(names) == name], within) for name in sorted(set(names))}
    return scores(log_residuals, within), parts


def _load(figure: TokenFigure) -> tuple[object, ...]:
    same = figure.tensor, figure.weights, figure.sequences_at_once, figure.prompt_tokens, figure.answer_tokens
    return figure.family, figure.model, figure.engine, *same
