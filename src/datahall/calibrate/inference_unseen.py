"""Published tokens/s that nothing is fitted to, forecast: of copies as full as memory lets them be.

It is the question that `datahall claim` asks, of other models and accelerators than the fit's, under one engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.inference_fit import WORD_BYTES, peak_flops_per_s
from datahall.case.named_model import shape_of
from datahall.catalog.accelerators import accelerator
from datahall.catalog.links import link
from datahall.catalog.published_inference import RateFigure
from datahall.compute.counts import ShapeCounts
from datahall.virtual.serving import Server, cached_width, sequences_held, token_s
from datahall.virtual.serving_constants import ServingConstants

_MOST_AT_ONCE = 2048.0  # sequences in flight, the engine's default


def rate_residuals(figures: Sequence[RateFigure], constants: ServingConstants) -> NDArray[np.float64]:
    """Log of forecast over measured tokens/s of a device, of copies as full as memory lets them be."""
    found: list[float] = []
    for figure in figures:
        shape, card, tensor = shape_of(figure.model), accelerator(figure.accelerator), float(figure.tensor)
        server = Server(
            product_flops_per_s=peak_flops_per_s(figure.accelerator, figure.weights),
            memory_bytes_per_s=card.memory_bytes_per_s,
            link_bytes_per_s=link(card.scale_up_link).bytes_per_s,
            tensor=tensor,
            weight_bytes=WORD_BYTES[figure.weights],
            cache_bytes=WORD_BYTES[figure.cache],
        )
        prompt, answer = figure.prompt_tokens, figure.answer_tokens
        batch = min(_MOST_AT_ONCE, sequences_held(shape, card.memory_bytes, server, prompt + answer))
        width = cached_width(shape, tensor)
        seconds = token_s(ShapeCounts.of(shape), width, server, constants, batch, prompt, answer)
        found.append(float(np.log(batch / seconds / tensor / figure.tokens_per_s_per_device)))
    return np.array(found)
