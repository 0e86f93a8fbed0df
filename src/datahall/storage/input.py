"""Batches of a sharded data set: read ahead on a thread, shards prepared once and cached, resumable at any position.

`read(shard)` gives the prepared bytes of a shard (tokenised, say) and is dear; `split(bytes)` gives its samples and is
cheap.  With a cache the prepared bytes are kept in a bounded folder.  Every worker walks the same global order and
takes its share, so it reads each shard that its share touches; the cache is what makes that cheap.

The loop takes batches by `next()`; `position` counts what the loop has taken, not what was read ahead: that goes into
the checkpoint.  `waited_s` is how long the loop stood still for input.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datahall.storage.cache import TierCache
from datahall.storage.order import Order


@dataclass(frozen=True, slots=True)
class ShardedData:
    """How to get at the samples: the prepared bytes of a shard, their number, and the samples in them."""

    read: Callable[[int], bytes]
    bytes_of: Callable[[int], int]
    split: Callable[[bytes], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Taken:
    """One worker's part of a global batch, and the position behind the batch."""

    samples: tuple[Any, ...]
    position: int


class Pipeline:
    """Batches of `size` samples over all workers, from `position` on."""

    def __init__(
        self,
        data: ShardedData,
        order: Order,
        size: int,
        *,
        position: int = 0,
        worker: int = 0,
        workers: int = 1,
        ahead: int = 2,
        cache: TierCache | None = None,
    ) -> None:
        self.position = position
        self.waited_s = 0.0
        self._data, self._order, self._size = data, order, size
        self._worker, self._workers, self._ahead = worker, workers, ahead
        self._cache = cache
        self._open: OrderedDict[int, Sequence[Any]] = OrderedDict()
        self._ready: queue.Queue[Taken | BaseException] = queue.Queue(maxsize=max(1, ahead))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[Taken]:
        """Batches without end."""
        return self

    def __next__(self) -> Taken:
        """The next batch; raises what went wrong while it was read."""
        began = time.perf_counter()
        taken = self._load(self.position) if self._ahead == 0 else self._take()
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

    def _take(self) -> Taken:
        if self._thread is None:
            self._thread = threading.Thread(target=self._read_ahead, args=(self.position,), name="input", daemon=True)
            self._thread.start()
        taken = self._ready.get()
        if isinstance(taken, BaseException):
            self._ready.put(taken)  # the thread has ended: whoever asks again is told again
            raise taken
        return taken

    def _read_ahead(self, position: int) -> None:
        try:
            while not self._stop.is_set():
                taken = self._load(position)
                position = taken.position
                self._ready.put(taken)
        except BaseException as error:
            self._ready.put(error)

    def _load(self, position: int) -> Taken:
        places = self._order.batch(position, self._size, self._worker, self._workers)
        return Taken(tuple(self._samples(place.shard)[place.index] for place in places), position + self._size)

    def _samples(self, shard: int) -> Sequence[Any]:
        held = self._open.get(shard)
        if held is not None:
            self._open.move_to_end(shard)
            return held
        read = self._data.read
        if self._cache is not None:
            data = self._cache.get(f"shard {shard}", self._data.bytes_of(shard), lambda: read(shard))
        else:
            data = read(shard)
        samples = self._open[shard] = self._data.split(data)
        while len(self._open) > self._order.mix + 1:  # the shards that are mixed now, and one of the next
            self._open.popitem(last=False)
        return samples
