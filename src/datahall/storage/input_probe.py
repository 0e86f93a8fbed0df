"""What a shard takes here: read and prepared anew, kept in a cache, taken from it.  Measured on a few, before a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from datahall.base.errors import UsageError
from datahall.case.question import Case
from datahall.storage.cache import TierCache
from datahall.storage.eviction import eviction
from datahall.storage.reading import ReadCosts
from datahall.storage.shards import open_shards

_SHARDS = 6


def probe_reads(case: Case, folder: Path) -> ReadCosts:
    """Of the case's data, with the cache in `folder` (removed afterwards), by a single reader.

    Files that the system holds in memory are read from there, as the run will read them.
    """
    application = case.application
    if application.data is None:
        raise UsageError("the case names no data in shards.", where="application.data")
    data = open_shards(application.data.path).training(application.sequence)
    several = range(min(_SHARDS, len(data.sizes)))
    try:
        return costs_of(folder, several, data.read, data.bytes_of)
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
