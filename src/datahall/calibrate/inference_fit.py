"""Fitting the constants of inference to published times between tokens: robust least squares of their logarithms.

Every constant is held by its prior.  Figures of one sweep (a model on an accelerator under an engine) err alike and
weigh as one.  Judging is `inference_holdout`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.case.named_model import shape_of
from datahall.catalog.accelerators import accelerator
from datahall.catalog.links import link
from datahall.catalog.published_inference import TokenFigure
from datahall.compute.counts import ShapeCounts, stack_counts
from datahall.virtual.serving import Server, cached_width, token_s
from datahall.virtual.serving_constants import ServingConstants

Floats = NDArray[np.float64]

# Round and usual values, not fitted.  Of the peak, large products reach 0.5 to 0.9 (the catalogue's measured rates);
# large copies reach about three quarters of the memory's rate; a layer is some ten kernels of 2 us; a small all-reduce
# of eight devices takes 20 us.
EXPECTED = ServingConstants(product_share=0.7, memory_share=0.75, layer_s=20e-6, reduce_s=20e-6)
LOG_SD = np.array([0.2, 0.15, 0.5, 0.5])
SWEEP_LOG_SD = 0.3  # scatter of a sweep about the forecast: engines, releases, what a row leaves out
WORD_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp4": 0.5}
_LEAST_STEP = 1e-4


@dataclass(frozen=True, slots=True)
class Loads:
    """Figures as arrays: what `token_s` takes but the constants."""

    counts: ShapeCounts
    cached_width: Floats
    server: Server
    batch: Floats
    prompt: Floats
    answer: Floats

    @classmethod
    def of(cls, figures: Sequence[TokenFigure]) -> Loads:
        """The arrays of `figures`; element i is of `figures[i]`."""
        shapes = [shape_of(figure.model) for figure in figures]
        cards = [accelerator(figure.accelerator) for figure in figures]
        tensor = _column([figure.tensor for figure in figures])
        server = Server(
            product_flops_per_s=_column([peak_flops_per_s(figure.accelerator, figure.weights) for figure in figures]),
            memory_bytes_per_s=_column([card.memory_bytes_per_s for card in cards]),
            link_bytes_per_s=_column([link(card.scale_up_link).bytes_per_s for card in cards]),
            tensor=tensor,
            weight_bytes=_column([WORD_BYTES[figure.weights] for figure in figures]),
        )
        return cls(
            stack_counts([ShapeCounts.of(shape) for shape in shapes]),
            _column([cached_width(shape, figure.tensor) for shape, figure in zip(shapes, figures, strict=True)]),
            server,
            _column([figure.sequences_at_once for figure in figures]),
            _column([figure.prompt_tokens for figure in figures]),
            _column([figure.answer_tokens for figure in figures]),
        )

    def log_seconds(self, constants: ServingConstants) -> Floats:
        """Logarithms of the forecast seconds between two tokens."""
        load = self.batch, self.prompt, self.answer
        return np.log(token_s(self.counts, self.cached_width, self.server, constants, *load))


def fit(figures: Sequence[TokenFigure]) -> ServingConstants:
    """The constants that `figures` give; the expected ones where there are none."""
    if not figures:
        return EXPECTED
    loads, target = Loads.of(figures), np.log([figure.token_s for figure in figures])
    weights = sweep_weights(figures)
    centre, prior = np.log(_column(astuple(EXPECTED))), np.diag(1.0 / LOG_SD**2)
    logs = centre
    for _ in range(50):
        base, slopes = _linearised(loads, logs)
        residual = target - base
        robust = weights / np.sqrt(1.0 + (residual / SWEEP_LOG_SD) ** 2) / SWEEP_LOG_SD**2
        gradient = slopes.T @ (robust * residual) - prior @ (logs - centre)
        step = np.clip(np.linalg.solve(slopes.T @ (slopes * robust[:, None]) + prior, gradient), -0.3, 0.3)
        logs = np.asarray(logs + step, dtype=np.float64)
        if np.abs(step).max() < 1e-8:
            break
    return _constants(logs)


def sweep_weights(figures: Sequence[TokenFigure]) -> Floats:
    """Weights that let all figures of one model, accelerator and engine count as one."""
    sizes = Counter(_sweep(figure) for figure in figures)
    return np.array([1.0 / sizes[_sweep(figure)] for figure in figures])


def peak_flops_per_s(name: str, weights: str) -> float:
    """Of products at the precision of the weights; in 16 bits where the accelerator has none such (4 bits on H100s)."""
    peaks = accelerator(name).peak_flops_per_s
    return peaks.get(weights) or peaks["bf16"]


def _linearised(loads: Loads, logs: Floats) -> tuple[Floats, Floats]:
    """Log seconds at these logarithms of the constants, and their slopes."""
    base = loads.log_seconds(_constants(logs))
    moved = logs + _LEAST_STEP * np.eye(len(logs))
    slopes = [(loads.log_seconds(_constants(one)) - base) / _LEAST_STEP for one in moved]
    return base, np.column_stack(slopes)


def _constants(logs: Floats) -> ServingConstants:
    return ServingConstants(*np.exp(logs).tolist())


def _sweep(figure: TokenFigure) -> tuple[str, str, str]:
    return figure.model, figure.accelerator, figure.engine


def _column(values: Sequence[Any]) -> Floats:
    return np.array(values, dtype=np.float64)
