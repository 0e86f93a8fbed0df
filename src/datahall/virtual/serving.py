"""A modest forecast of inference: tokens one after another, prompts between them, and how many copies run at once.

Closed formulas for decoder-only models on the devices of one copy (tensor ranks in a scale-up domain, stages across
domains).  No queue, no prefix reuse, no speculation, no disaggregation: those are a simulator's.  Numbers or arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datahall.compute.counts import ShapeCounts
from datahall.compute.estimate import experts_touched, inference_s
from datahall.network.estimate import fastest_all_reduce_s

# Fitted to published closed-loop figures (docs/claims.md says which, and the error on families left out).
PRODUCT_SHARE = 0.76  # of the dense peak
MEMORY_SHARE = 0.67  # of the data sheet's rate
LAYER_S = 21e-6  # of a layer, however little it does
REDUCE_S = 50e-6  # of an all-reduce, however small, with what waits for it
INTERVAL = 2.2  # nine of ten figures of a family left out lie within this factor of the forecast
RATIO_INTERVAL = 1.9  # and of two accelerators' figures at the same load under one engine, their ratio within this


@dataclass(frozen=True, slots=True)
class Server:
    """The devices of one copy and how they are used; bytes and seconds of one device."""

    product_flops_per_s: Any  # dense peak
    memory_bytes_per_s: Any
    link_bytes_per_s: Any
    tensor: Any = 1.0
    stages: Any = 1.0
    weight_bytes: Any = 2.0  # of one weight
    cache_bytes: Any = 2.0  # of one element of the cache


def token_s(counts: ShapeCounts, cached_width: Any, server: Server, batch: Any, prompt: Any, answer: Any) -> Any:
    """Seconds between two tokens of a sequence, of which `batch` are in flight.

    Between two tokens of one sequence a share `1 / answer` of the others ends, and the prompts that follow are read.
    """
    context = prompt + answer / 2.0
    share = batch / server.stages  # in each stage at once
    step = server.stages * forward_s(counts, cached_width, server, share, share, context)
    asked = batch / answer
    return step + asked * forward_s(counts, cached_width, server, prompt, 1.0, prompt)


def forward_s(counts: ShapeCounts, cached_width: Any, server: Server, tokens: Any, sequences: Any, context: Any) -> Any:
    """Seconds of one stage for `tokens` of `sequences`, each of which looks back on `context` tokens."""
    ranks = server.tensor * server.stages
    flops = 2.0 * tokens * (counts.layer_weights + counts.head_weights)
    looked = np.where(np.asarray(tokens) > sequences, 0.5, 1.0) * counts.keys(context)  # a prompt looks at itself
    flops = flops + 2.0 * tokens * counts.layers * looked * (counts.score_width + counts.value_width)
    weights = server.weight_bytes * touched_weights(counts, tokens)
    cache = server.cache_bytes * sequences * counts.layers * counts.keys(context) * cached_width
    layers = counts.layers / server.stages
    passed = fastest_all_reduce_s(2.0 * tokens * counts.hidden, server.tensor, server.link_bytes_per_s, 0.0)
    reduced = 2.0 * layers * np.where(np.asarray(server.tensor) > 1, REDUCE_S + passed, 0.0)
    rate, memory = PRODUCT_SHARE * server.product_flops_per_s, MEMORY_SHARE * server.memory_bytes_per_s
    return inference_s(flops / ranks, weights / ranks, cache / ranks, rate, memory, layers, LAYER_S) + reduced


def touched_weights(counts: ShapeCounts, tokens: Any) -> Any:
    """Weights that are read for so many tokens: all of a dense model, of a mixture the experts that they choose."""
    dense = counts.layers - counts.moe_layers
    read = experts_touched(counts.experts, counts.experts_per_token, tokens)
    mixture = counts.moe_layers * (read * counts.expert_weights + counts.shared_weights + counts.router_weights)
    return counts.layers * counts.attention_weights + dense * counts.dense_weights + mixture + counts.head_weights
