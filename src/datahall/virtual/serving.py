"""A modest forecast of inference: tokens one after another, prompts between them, and how many copies run at once.

Closed formulas for decoder-only models on the devices of one copy (tensor ranks in a scale-up domain, stages across
domains).  No queue, no prefix reuse, no speculation, no disaggregation: those are a simulator's.  Numbers or arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datahall.case.model import ModelShape
from datahall.compute.counts import ShapeCounts
from datahall.compute.estimate import experts_touched, inference_s
from datahall.network.estimate import fastest_all_reduce_s
from datahall.virtual.serving_constants import ServingConstants

_USED_SHARE = 0.9  # of the memory: weights and cache; engines keep the rest for buffers


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


def token_s(
    counts: ShapeCounts,
    cached_width: Any,
    server: Server,
    constants: ServingConstants,
    batch: Any,
    prompt: Any,
    answer: Any,
) -> Any:
    """Seconds between two tokens of a sequence, of which `batch` are in flight.

    Between two tokens of one sequence a share `1 / answer` of the others ends.  The prompts that follow are read in the
    same passes (continuous batching), which read every weight once for both.
    """
    share = batch / server.stages  # in each stage at once
    context = prompt + answer / 2.0
    return server.stages * pass_s(counts, cached_width, server, constants, share, context, share / answer, prompt)


def pass_s(
    counts: ShapeCounts,
    cached_width: Any,
    server: Server,
    constants: ServingConstants,
    batch: Any,
    context: Any,
    asked: Any = 0.0,
    prompt: Any = 1.0,
) -> Any:
    """Seconds of one stage for a token of each of `batch` sequences, which look back on `context` tokens.

    `asked` prompts of `prompt` tokens are read beside them: a fraction of one is the mean of many passes.
    `cached_width` are elements of the cache that a token has in one layer on all tensor ranks together.
    """
    ranks, layers = server.tensor * server.stages, counts.layers / server.stages
    tokens = batch + asked * prompt
    looked = batch * counts.keys(context) + 0.5 * asked * prompt * counts.keys(prompt)  # a prompt looks at itself
    flops = 2.0 * tokens * counts.layer_weights + 2.0 * (batch + asked) * counts.head_weights
    flops = flops + 2.0 * counts.layers * looked * (counts.score_width + counts.value_width)
    weights = server.weight_bytes * touched_weights(counts, tokens)
    cache = server.cache_bytes * batch * counts.layers * counts.keys(context) * cached_width
    passed = fastest_all_reduce_s(2.0 * tokens * counts.hidden, server.tensor, server.link_bytes_per_s, 0.0)
    reduced = 2.0 * layers * np.where(np.asarray(server.tensor) > 1, constants.reduce_s + passed, 0.0)
    rate = constants.product_share * server.product_flops_per_s
    memory = constants.memory_share * server.memory_bytes_per_s
    return inference_s(flops / ranks, weights / ranks, cache / ranks, rate, memory, layers, constants.layer_s) + reduced


def touched_weights(counts: ShapeCounts, tokens: Any) -> Any:
    """Weights that are read for so many tokens: all of a dense model, of a mixture the experts that they choose."""
    dense = counts.layers - counts.moe_layers
    read = experts_touched(counts.experts, counts.experts_per_token, tokens)
    mixture = counts.moe_layers * (read * counts.expert_weights + counts.shared_weights + counts.router_weights)
    return counts.layers * counts.attention_weights + dense * counts.dense_weights + mixture + counts.head_weights


def cached_width(shape: ModelShape, tensor: Any = 1.0) -> Any:
    """Elements of the cache that one token has in one layer, on all tensor ranks together.

    Keys and values, or what latent attention keeps.  Where their heads are fewer than ranks, several hold the same one,
    and latents are held by every rank.
    """
    if shape.latent is not None:
        return (shape.latent.key_value_rank + shape.latent.rope_dim) * tensor
    return 2.0 * shape.head_dim * np.maximum(float(shape.kv_heads), tensor)


def sequences_held(shape: ModelShape, memory_bytes: Any, server: Server, tokens: Any) -> Any:
    """Sequences of `tokens` whose cache fits beside the weights in one copy; below one where it does not fit."""
    room = _USED_SHARE * memory_bytes * server.tensor * server.stages - server.weight_bytes * shape.parameters()
    each = server.cache_bytes * shape.layers * cached_width(shape, server.tensor) * tokens
    return np.floor(room / each)
