"""What holding keys and values costs, and from when finding them pays: formulas over plain numbers or arrays.

A block is computed again in `compute_s`, fetched in `fetch_s` and kept in `keep_s` seconds; whoever asks has measured
or priced these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.base.formula import formula


@formula(
    equation="b = 2 L k d w",
    source="Pope et al. 2022, Efficiently scaling transformer inference (arXiv 2211.05102), section 2.1",
    holds="attention over k key-value heads of width d in L layers; no window, no latent attention",
)
def held_token_bytes(layers: Any, kv_heads: Any, head_dim: Any, word_bytes: Any) -> Any:
    """Bytes that the keys and values of one token take."""
    return 2 * layers * kv_heads * head_dim * word_bytes


@formula(
    equation="R* = bytes / (compute - latency), infinite where compute <= latency",
    source="ours: latency + bytes / R equals the seconds of computing the block again",
    holds="blocks fetched one after another, nothing hidden behind arithmetic",
)
def break_even_fetch_bytes_per_s(block_bytes: Any, compute_s: Any, latency_s: Any) -> Any:
    """A tier slower than this gives a block later than computing it again does."""
    spare = np.asarray(compute_s, dtype=float) - latency_s
    return np.where(spare > 0, block_bytes / np.where(spare > 0, spare, 1.0), np.inf)


@formula(
    equation="h* = keep / (compute - fetch + keep), infinite where compute <= fetch",
    source="ours: h (compute - fetch) equals (1 - h) keep",
    holds="every block that is not found is kept",
)
def break_even_hit_share(compute_s: Any, fetch_s: Any, keep_s: Any) -> Any:
    """The share of blocks that have to be found for the cache to cost nothing."""
    spare = np.asarray(compute_s, dtype=float) - fetch_s
    return np.where(spare > 0, keep_s / (np.where(spare > 0, spare, 1.0) + keep_s), np.inf)
