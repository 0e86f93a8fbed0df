"""The calibration of inference as it ships, made anew from the shipped figures; `refit` writes and compares it.

Takes some seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from datahall.calibrate.inference_fit import Loads, fit
from datahall.calibrate.inference_holdout import held_out, interval_factors
from datahall.catalog.published_inference import TokenFigure, figures
from datahall.virtual.serving_constants import NAME, ServingConstants


def refitted() -> dict[str, Any]:
    """The calibration of inference as the shipped figures give it, as plain JSON values."""
    return fitted_json(figures(), fit(figures()), interval_factors(figures()))


def fitted_json(
    fitted: Sequence[TokenFigure], constants: ServingConstants, factors: Mapping[str, float]
) -> dict[str, Any]:
    """The calibration as plain JSON values, with its range of validity and its held-out errors."""
    return {
        "format_version": 1,
        "name": NAME,
        "fitted_to": f"{len(fitted)} published times between tokens, datahall/catalog/published/inference-*.csv",
        "constants": {name: float(f"{value:.6g}") for name, value in asdict(constants).items()},
        "interval_factors": {name: round(value, 4) for name, value in factors.items()},
        "validity": {
            "accelerators": sorted({figure.accelerator for figure in fitted}),
            "engines": sorted({figure.engine for figure in fitted}),
            "models": sorted({figure.model for figure in fitted}),
            "weights": sorted({figure.weights for figure in fitted}),
            "hidden": _ends(Loads.of(fitted).counts.hidden),
            "tensor": _ends([figure.tensor for figure in fitted]),
            "sequences_at_once": _ends([figure.sequences_at_once for figure in fitted]),
            "prompt_tokens": _ends([figure.prompt_tokens for figure in fitted]),
            "answer_tokens": _ends([figure.answer_tokens for figure in fitted]),
        },
        "held_out": held_out(fitted, constants, factors),
    }


def _ends(values: Any) -> list[int]:
    return [int(min(values)), int(max(values))]
