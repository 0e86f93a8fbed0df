"""What a shard takes here: read and prepared anew, kept in a cache, taken from it.  Measured on a few, before a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from datahall.case.data import Data
from datahall.storage.cache import TierCache
from datahall.storage.eviction import eviction
from datahall.storage.reading import ReadCosts
from datahall.storage.shards import open_shards

_SHARDS = 6


def probe_reads(data: Data, sequence: int, folder: Path) -> ReadCosts:
    """Of `data` in samples of `sequence` tokens, by a single reader with the cache in `folder` (removed afterwards).

    Files that the system holds in memory are read from there, as the run will read them.
    """
    shards = open_shards(data.path).training(sequence)
    several = range(min(_SHARDS, len(shards.sizes)))
    try:
        return costs_of(folder, several, shards.read, shards.bytes_of)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def costs_of(
    folder: Path, shards: Sequence[int], fetch: Callable[[int], bytes], bytes_of: Callable[[int], int]
) -> ReadCosts:
    """Means over `shards`, each fetched alone, then through an empty cache in `folder`, then from it."""
    shutil.rmtree(folder, ignore_errors=True)
    cache = TierCache(folder, eviction("lru", sum(bytes_of(shard) for shard in shards)))

    def cached(shard: int) -> bytes:
        return cache.get(str(shard), bytes_of(shard), lambda: fetch(shard))

    slow, filled, fast = (fmean(_seconds(read, shard) for shard in shards) for read in (fetch, cached, cached))
    return ReadCosts(slow, fast, max(0.0, filled - slow))


def _seconds(read: Callable[[int], bytes], shard: int) -> float:
    began = time.perf_counter()
    read(shard)
    return time.perf_counter() - began
