"""What reading shards will be: which are opened when, what a cache answers, how long the loop waits for each piece.

A replay of `order` and `eviction`, the same objects that really read; times are an event recurrence over measured or
estimated seconds of a shard.  Nothing is read here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datahall.base.formula import formula
from datahall.storage.eviction import Eviction
from datahall.storage.input import open_shards, shard_key
from datahall.storage.order import Order

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReadCosts:
    """Mean seconds of a shard: read and prepared anew, taken from the cache, kept in the cache."""

    slow_s: float
    fast_s: float
    fill_s: float


@dataclass(frozen=True, slots=True)
class Opened:
    """Shards that each piece opens, and which of these the cache answers."""

    shards: tuple[tuple[int, ...], ...]
    hits: tuple[int, ...]

    def load_s(self, costs: ReadCosts, cached: bool, piece_s: float = 0.0) -> Seconds:
        """Seconds that making each piece takes; `piece_s` is what it takes besides shards."""
        hits = np.array(self.hits, dtype=np.float64)
        misses = np.array([len(shards) for shards in self.shards], dtype=np.float64) - hits
        return piece_s + hits * costs.fast_s + misses * (costs.slow_s + (costs.fill_s if cached else 0.0))


def shards_opened(
    order: Order, size: int, steps: int, *, worker: int = 0, workers: int = 1, pieces: int = 1
) -> tuple[tuple[int, ...], ...]:
    """The shards that `worker` opens for each of its pieces of `steps` global batches, as `SampleReader` does."""
    firsts = np.cumsum([0, *order.sizes[:-1]])
    held: OrderedDict[int, None] = OrderedDict()
    found: list[tuple[int, ...]] = []
    for step in range(steps):
        share = order.batch(step * size, size, worker, workers)
        places: list[int] = (np.searchsorted(firsts, share, side="right") - 1).tolist()
        for piece in range(pieces):
            opened: list[int] = []
            for shard in places[len(share) * piece // pieces : len(share) * (piece + 1) // pieces]:
                if shard in held:
                    held.move_to_end(shard)
                    continue
                held[shard] = None
                opened.append(shard)
                if len(held) > open_shards(order.mix):
                    held.popitem(last=False)
            found.append(tuple(opened))
    return tuple(found)


def through(policy: Eviction | None, shards: Sequence[Sequence[int]], prepared_bytes: Sequence[int]) -> Opened:
    """The same shards past a fresh cache (None: no cache), and its hits by piece."""
    hits = [
        sum(policy.access(shard_key(shard), prepared_bytes[shard]).hit for shard in opened) if policy else 0
        for opened in shards
    ]
    return Opened(tuple(tuple(opened) for opened in shards), tuple(hits))


@formula(
    equation="put_i = max(put_(i-1) + load_i, taken_(i-a)), taken_i = max(taken_(i-1) + work, put_i), w_i the rest",
    source="ours: a producer and a consumer with a queue of a places between them; without one the load is the wait",
    holds="a core, a disk or a link of the producer's own; every piece takes the same work",
)
def waits(load_s: Seconds, work_s: float, ahead: int) -> Seconds:
    """Seconds that the loop stands still before each piece; it works `work_s` on one."""
    if ahead == 0:
        return np.asarray(load_s, dtype=np.float64)
    taken: list[float] = []
    waited: list[float] = []
    put = asked = 0.0
    for number, load in enumerate(load_s):
        put = max(put + float(load), taken[number - ahead] if number >= ahead else 0.0)
        waited.append(max(0.0, put - asked))
        taken.append(max(asked, put))
        asked = taken[-1] + work_s
    return np.array(waited)
