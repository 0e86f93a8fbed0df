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
from datahall.virtual.serving import INTERVAL, Server, token_s

PROMPT, ANSWER = 1024, 1024  # tokens, of the usual published point
_USED_SHARE = 0.9  # of the memory: weights and cache; engines keep the rest for buffers
_MOST_AT_ONCE = 256.0  # sequences in flight in one copy, the default of engines
_WORD_BYTES = 2.0
_MOST_STAGES = 64


@dataclass(frozen=True, slots=True)
class Served:
    """What one copy on `tensor` x `stages` devices does: tokens/s of each of them, and seconds between two tokens."""

    tokens_per_s: float
    token_s: float
    tensor: int
    stages: int
    at_once: int

    @property
    def factor(self) -> float:
        """By which the forecast may be off either way (90 % interval)."""
        return INTERVAL


def served(shape: ModelShape, site: Site) -> Served | None:
    """The copy that answers most tokens a second of each device of `site`; None: they hold none, or not in 16 bits."""
    counts, card = ShapeCounts.of(shape), site.accelerator
    tensor, stages = _cuts(shape, site)
    room = _USED_SHARE * card.memory_bytes * tensor * stages - _WORD_BYTES * shape.parameters()
    width = cached_width(shape)
    each = _WORD_BYTES * shape.layers * width * (PROMPT + ANSWER)
    at_once = np.minimum(_MOST_AT_ONCE, np.floor(room / each))
    fits = at_once >= stages
    peak = max(card.peak_flops_per_s.get("bf16", 0.0), card.peak_flops_per_s.get("fp16", 0.0))
    if not fits.any() or not peak:
        return None
    tensor, stages, at_once = tensor[fits], stages[fits], at_once[fits]
    server = Server(peak, card.memory_bytes_per_s, site.scale_up.bytes_per_s, tensor, stages)
    seconds = np.asarray(token_s(counts, width, server, at_once, float(PROMPT), float(ANSWER)))
    rate = at_once / seconds / (tensor * stages)
    best = int(np.argmax(rate))
    return Served(float(rate[best]), float(seconds[best]), int(tensor[best]), int(stages[best]), int(at_once[best]))


def cached_width(shape: ModelShape) -> int:
    """Elements of the cache that one token adds in one layer: keys and values, or what latent attention keeps."""
    if shape.latent is not None:
        return shape.latent.key_value_rank + shape.latent.rope_dim
    return 2 * shape.kv_heads * shape.head_dim


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
