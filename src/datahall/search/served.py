"""How many tokens a second devices of one kind serve of a model, each copy cut as it serves most: a modest forecast.

Closed loop: as many sequences at once as memory holds, prompts and answers of a stated length, in 16 bits.  Formulas
are `virtual.serving`'s; no latency target is met here and no traffic is played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datahall.case.model import ModelShape
from datahall.case.site import Site
from datahall.compute.counts import ShapeCounts
from datahall.virtual.serving import Server, cached_width, sequences_held, token_s
from datahall.virtual.serving_constants import shipped

PROMPT, ANSWER = 1024, 1024  # tokens, of the usual published point
_MOST_AT_ONCE = 256.0  # sequences in flight in one copy, the default of engines
_MOST_STAGES = 64


@dataclass(frozen=True, slots=True)
class Served:
    """What one copy on `tensor` x `stages` devices does: tokens/s of each of them, and seconds between two tokens."""

    tokens_per_s: float
    token_s: float
    tensor: int
    stages: int
    at_once: int
    factor: float  # by which the forecast may be off either way (90 % interval)


def served(shape: ModelShape, site: Site) -> Served | None:
    """The copy that answers most tokens a second of each device of `site`; None: they hold none, or not in 16 bits."""
    card, calibration = site.accelerator, shipped()
    peak = max(card.peak_flops_per_s.get("bf16", 0.0), card.peak_flops_per_s.get("fp16", 0.0))
    tensor, stages = _cuts(shape, site)
    server = Server(peak, card.memory_bytes_per_s, site.scale_up.bytes_per_s, tensor, stages)
    at_once = np.minimum(_MOST_AT_ONCE, sequences_held(shape, card.memory_bytes, server, PROMPT + ANSWER))
    fits = at_once >= stages
    if not fits.any() or not peak:
        return None
    load = np.maximum(at_once, stages), float(PROMPT), float(ANSWER)
    width = cached_width(shape, tensor)
    seconds = np.asarray(token_s(ShapeCounts.of(shape), width, server, calibration.constants, *load))
    rate = np.where(fits, at_once / seconds / (tensor * stages), 0.0)
    best = int(np.argmax(rate))
    cut = int(tensor[best]), int(stages[best]), int(at_once[best])
    return Served(float(rate[best]), float(seconds[best]), *cut, calibration.factor)


def _cuts(shape: ModelShape, site: Site) -> tuple[Any, Any]:
    """Tensor ranks within a scale-up domain of at most eight devices, and stages of as many devices as there are."""
    tensors = [ranks for ranks in (1, 2, 4, 8) if shape.heads % ranks == 0 and ranks <= site.scale_up_domain]
    cuts = [
        (ranks, stages)
        for ranks in tensors
        for stages in range(1, min(_MOST_STAGES, shape.layers) + 1)
        if ranks * stages <= site.devices
    ]
    return tuple(np.array(column, dtype=np.float64) for column in zip(*cuts, strict=True))  # pyright: ignore[reportReturnType]
