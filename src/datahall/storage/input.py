"""Batches of numbered samples in an `Order`: read ahead on a thread, resumable at any position; and shards of them.

`Pipeline` gives each worker its pieces of every global batch.  The loop takes them by `next()`; `position` counts what
the loop has taken, not what was read ahead: that goes into the checkpoint.  `waited_s` is how long the loop stood still
for input.  What a sample is and where it comes from is `load`'s: data in memory, or a `SampleReader`.

`SampleReader` turns sample numbers into samples of sharded data: `read(shard)` gives the prepared bytes of a shard
(tokenised, say) and is dear; `split(shard, bytes)` gives its samples and is cheap.  With a cache the prepared bytes are
kept in a bounded folder.  Every worker walks the same global order, so it reads each shard that its share touches.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from datahall.storage.cache import TierCache
from datahall.storage.order import MIX, Order

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """One piece of a worker's share: the numbers of its samples, what was loaded, the position behind it.

    The position moves on with the last piece of a global batch.
    """

    ids: Sequence[int]
    batch: T
    position: int


class Pipeline(Generic[T]):
    """What `load` gives of this worker's share of global batches of `size` samples, in `pieces` each.

    From `position` on, up to the position `until` where it is given; `ahead` pieces are made before they are asked for
    (0: none, and no thread).
    """

    def __init__(
        self,
        load: Callable[[Sequence[int]], T],
        order: Order,
        size: int,
        *,
        position: int = 0,
        until: int | None = None,
        worker: int = 0,
        workers: int = 1,
        pieces: int = 1,
        ahead: int = 0,
    ) -> None:
        self.position = position
        self.waited_s = 0.0
        self._load, self._order, self._size, self._until = load, order, size, until
        self._worker, self._workers, self._pieces, self._ahead = worker, workers, pieces, ahead
        self._made = self._make(position)
        self._ready: queue.Queue[Taken[T] | BaseException] = queue.Queue(maxsize=max(1, ahead))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[Taken[T]]:
        """The pieces that follow."""
        return self

    def __next__(self) -> Taken[T]:
        """The next piece; raises what went wrong while it was read, StopIteration behind the last."""
        began = time.perf_counter()
        taken = self._take() if self._ahead else next(self._made)
        self.waited_s += time.perf_counter() - began
        self.position = taken.position
        return taken

    def close(self) -> None:
        """End the thread; what was read ahead is forgotten."""
        self._stop.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _make(self, position: int) -> Iterator[Taken[T]]:
        while self._until is None or position < self._until:
            share = self._order.batch(position, self._size, self._worker, self._workers)
            after = position + self._size
            for piece in range(self._pieces):
                ids = share[len(share) * piece // self._pieces : len(share) * (piece + 1) // self._pieces]
                yield Taken(ids, self._load(ids), after if piece == self._pieces - 1 else position)
            position = after

    def _take(self) -> Taken[T]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._read_ahead, name="input", daemon=True)
            self._thread.start()
        taken = self._ready.get()
        if isinstance(taken, BaseException):
            self._ready.put(taken)  # the thread has ended: whoever asks again is told again
            raise taken
        return taken

    def _read_ahead(self) -> None:
        try:
            for taken in self._made:
                self._ready.put(taken)
                if self._stop.is_set():
                    return
            self._ready.put(StopIteration())
        except BaseException as error:
            self._ready.put(error)


class Numbered(Protocol):
    """The samples of one shard, by their numbers there."""

    def __getitem__(self, index: int, /) -> Any:
        """The sample with this number."""
        ...


@dataclass(frozen=True, slots=True)
class ShardedData:
    """A data set in shards: samples in each, the prepared bytes of a shard, their number, and the samples in them.

    `content` is a digest of all of it, where somebody has one.
    """

    sizes: Sequence[int]
    read: Callable[[int], bytes]
    bytes_of: Callable[[int], int]
    split: Callable[[int, bytes], Numbered]
    content: str = ""


class SampleReader:
    """Samples by their numbers; the shards being mixed and one more are held open.

    `opened` counts the shards that were asked for, `fetched` those of them that no cache had.
    """

    def __init__(self, data: ShardedData, mix: int = MIX, cache: TierCache | None = None) -> None:
        self.data, self.mix, self.cache = data, mix, cache
        self.opened = self.fetched = 0
        self._places = Order(data.sizes, 0)
        self._held: OrderedDict[int, Numbered] = OrderedDict()

    def samples(self, ids: Sequence[int]) -> list[Any]:
        """The samples with these numbers."""
        return [self._shard(place.shard)[place.index] for place in map(self._places.place, ids)]

    def _shard(self, shard: int) -> Numbered:
        held = self._held.get(shard)
        if held is not None:
            self._held.move_to_end(shard)
            return held
        self.opened += 1
        prepared = self._fetch(shard) if self.cache is None else self._through(self.cache, shard)
        samples = self._held[shard] = self.data.split(shard, prepared)
        while len(self._held) > open_shards(self.mix):
            self._held.popitem(last=False)
        return samples

    def _through(self, cache: TierCache, shard: int) -> bytes:
        return cache.get(shard_key(shard), self.data.bytes_of(shard), lambda: self._fetch(shard))

    def _fetch(self, shard: int) -> bytes:
        self.fetched += 1
        return self.data.read(shard)


def open_shards(mix: int) -> int:
    """Shards that a reader holds: those that are mixed now, and one of the next."""
    return mix + 1


def shard_key(shard: int) -> str:
    """What a cache knows a shard by."""
    return f"shard {shard}"
