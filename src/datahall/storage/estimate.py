"""What writing, reading and re-reading a checkpoint take: formulas over plain numbers or arrays.

A client (one rank) holds `raw_bytes`, in `shards` files with one thread each.  A tier gives every stream at most
`stream_bytes_per_s` and all streams of all clients together at most `tier_bytes_per_s`.  A codec shrinks `ratio` times
at `codec_bytes_per_s` of raw bytes for the whole client (all its threads; measured through the real writer, digests and
interpreter included).  What a background save costs training is `stall_s` and `slowed_s`; nothing else here overlaps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.base.formula import formula
from datahall.storage.plan import CHUNK_BYTES


@formula(
    equation="t = latency + bytes / (B x stripes), B x stripes at most the tier's rate over its clients",
    source="T = (M + P)/(B S) with S read as the number of stripes; with S a capacity it has no right unit",
    holds="streams of one size; capacity is a constraint, not a term",
)
def transfer_s(
    stored_bytes: Any, shards: Any, clients: Any, stream_bytes_per_s: Any, tier_bytes_per_s: Any, latency_s: Any
) -> Any:
    """Seconds to move one client's stored bytes to or from a tier that `clients` use at once."""
    rate = np.minimum(np.asarray(stream_bytes_per_s) * shards, np.asarray(tier_bytes_per_s) / clients)
    return latency_s + stored_bytes / rate


@formula(
    equation="t = latency + max(c, m) + max(o, threads x chunk/raw) min(c, m), c = raw/E, m = raw/(r B)",
    source="ours: two resources used by the same threads; o = 0 covers all, o = 1 nothing",
    holds="several chunks per thread",
)
def coded_s(
    raw_bytes: Any,
    ratio: Any,
    codec_bytes_per_s: Any,
    shards: Any,
    clients: Any,
    stream_bytes_per_s: Any,
    tier_bytes_per_s: Any,
    latency_s: Any,
    overlap: Any,
) -> Any:
    """Seconds to write or to read one client's `raw_bytes` by a codec, with the rates of that direction."""
    computing = raw_bytes / np.asarray(codec_bytes_per_s, dtype=float)
    moving = transfer_s(np.asarray(raw_bytes) / ratio, shards, clients, stream_bytes_per_s, tier_bytes_per_s, 0.0)
    apart = np.clip(np.maximum(overlap, pipeline_share(raw_bytes, shards)), 0.0, 1.0)
    return latency_s + np.maximum(computing, moving) + apart * np.minimum(computing, moving)


@formula(
    equation="o = min(1, threads x chunk / raw)",
    source="ours: nothing can move before every thread has coded its first chunk",
    holds="threads that code equally fast",
)
def pipeline_share(raw_bytes: Any, shards: Any) -> Any:
    """The share of the shorter of coding and moving that nothing can cover, because a client has few chunks."""
    return np.minimum(1.0, np.asarray(shards) * CHUNK_BYTES / np.maximum(raw_bytes, 1.0))


@formula(
    equation="n = min(threads x clients, cores)/clients",
    source="ours: threads of all clients share a host's cores evenly",
    holds="one host; every thread busy",
)
def busy_threads(threads: Any, clients: Any, cores: Any) -> Any:
    """Threads of one client that have a core at any time."""
    return np.minimum(np.asarray(threads) * clients, cores) / clients


@formula(
    equation="t = b max(1, clients/cores) + f files",
    source="ours: planning is arithmetic of each client; a file is opened, synchronised and closed",
    holds="states of some dozens of tensors; planning grows with their number",
)
def fixed_s(begin_s: Any, file_s: Any, files: Any, clients: Any, cores: Any) -> Any:
    """Seconds of a save or a load that do not depend on its size: the `latency_s` of `coded_s`."""
    return begin_s * np.maximum(1.0, np.asarray(clients) / cores) + file_s * np.asarray(files)


@formula(
    equation="bytes read = the chunks that hold bytes start to start + wanted of the piece",
    source="ours: chunks are the unit of reading and checking",
    holds="cuts along the first axis; a cut along another reads the whole piece",
)
def reshard_read_bytes(piece_bytes: Any, start_bytes: Any, wanted_bytes: Any) -> Any:
    """Raw bytes that a rank reads of a stored piece to get `wanted_bytes` of it from `start_bytes` on."""
    start, wanted = np.asarray(start_bytes), np.asarray(wanted_bytes)
    first, last = start // CHUNK_BYTES * CHUNK_BYTES, -(-(start + wanted) // CHUNK_BYTES) * CHUNK_BYTES
    return np.where(wanted > 0, np.minimum(piece_bytes, last) - first, 0)


@formula(
    equation="t = load of the bytes read + bytes read / cut rate",
    source="ours: what is not a whole piece is read beside its place and copied",
    holds="as coded_s; `load_s` is coded_s of the bytes that are read",
)
def reshard_s(load_s: Any, read_bytes: Any, cut_bytes_per_s: Any) -> Any:
    """Seconds to load a client's part of a checkpoint that was cut otherwise."""
    return load_s + np.asarray(read_bytes) / cut_bytes_per_s


@formula(
    equation="B* = E (1 - o/r) where r > 1 + o, else E (1 - 1/r)/o",
    source="ours: the bandwidth at which `coded_s` equals raw/B",
    holds="ratio above 1; below it there is no such bandwidth and the answer is 0",
)
def break_even_bytes_per_s(ratio: Any, codec_bytes_per_s: Any, overlap: Any) -> Any:
    """A tier or link slower than this is faster with the codec than without."""
    ratio, overlap = np.asarray(ratio, dtype=float), np.asarray(overlap, dtype=float)
    codec_bytes_per_s = np.where(ratio <= 1.0, 0.0, codec_bytes_per_s)
    bound_by_codec = codec_bytes_per_s * (1.0 - overlap / ratio)
    bound_by_tier = codec_bytes_per_s * (1.0 - 1.0 / ratio) / np.maximum(overlap, 1e-9)
    return np.where(ratio <= 1.0, 0.0, np.where(ratio > 1.0 + overlap, bound_by_codec, bound_by_tier))


@formula(
    equation="stall = call + max(0, bytes / copy rate - hidden)",
    source="ours: the copy is made beside forward and backward, and the next update waits for it",
    holds="the previous save has ended and the copy's memory is there; buffers are small",
)
def stall_s(raw_bytes: Any, copy_bytes_per_s: Any, hidden_s: Any, call_s: Any) -> Any:
    """Seconds that a background save holds the loop; `hidden_s` lie between the call and the next update."""
    return call_s + np.maximum(0.0, np.asarray(raw_bytes) / copy_bytes_per_s - hidden_s)


@formula(
    equation="T = n W / C x min(1, max(0, t + 1 - C/n))",
    source="ours: where no core is free, the work of copying and writing comes from all cores alike",
    holds="n ranks of t threads on C cores that share them evenly, one thread more each; memory's rate is no limit",
)
def slowed_s(work_s: Any, ranks: Any, threads: Any, cores: Any) -> Any:
    """Seconds by which the steps beside a background save of `work_s` seconds of one core are longer in all."""
    short = np.clip(np.asarray(threads) + 1.0 - np.asarray(cores) / ranks, 0.0, 1.0)
    return ranks * np.asarray(work_s) / cores * short


@formula(
    equation="gain = hits (slow - fast) - accesses x overhead - misses x fill",
    source="REQUIREMENTS S3, the fill of a miss written out",
    holds="costs are means over the accesses",
)
def cache_gain_s(accesses: Any, hit_share: Any, slow_s: Any, fast_s: Any, overhead_s: Any, fill_s: Any) -> Any:
    """Seconds that a cache saves over `accesses`; negative when it loses."""
    hits = np.asarray(accesses) * hit_share
    return hits * (np.asarray(slow_s) - fast_s) - accesses * np.asarray(overhead_s) - (accesses - hits) * fill_s


@formula(
    equation="w = max(0, load - step) with reading ahead, load without",
    source="ours: a producer and a consumer with a queue between them, in the steady state",
    holds="means over many steps, and a queue deep enough for the loader's bursts (one shard's worth of batches)",
)
def input_wait_s(load_s: Any, step_s: Any, reads_ahead: Any) -> Any:
    """Seconds a step that the loop stands still for input; `load_s` is the mean per batch, shard reads spread."""
    return np.where(reads_ahead, np.maximum(0.0, np.asarray(load_s, dtype=float) - step_s), load_s)
