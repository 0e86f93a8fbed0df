"""The order in which the samples of a sharded data set are seen: a pure function of seed and position.

Every epoch draws an order of the shards and mixes the samples of `mix` shards at a time.  The position, samples seen by
all workers together since the beginning, is the whole state: it goes into the checkpoint, and any number of workers
goes on from it without losing or repeating a sample.  Nothing is read here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import UsageError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample lies: its epoch, its shard and its number there."""

    epoch: int
    shard: int
    index: int


class Order:
    """The order of a data set with `sizes[i]` samples in shard i."""

    def __init__(self, sizes: Sequence[int], seed: int, mix: int = 4) -> None:
        if not sizes or min(sizes) < 0 or sum(sizes) == 0:
            raise UsageError("the data set has no samples.", hint="Check the shards' sizes.")
        self.sizes = tuple(sizes)
        self.seed = seed
        self.mix = max(1, mix)
        self.epoch_samples = sum(sizes)
        self._epoch = -1
        self._groups: list[list[int]] = []
        self._starts: list[int] = []
        self._group: tuple[int, int] = (-1, -1)
        self._mixed: NDArray[np.int64] = np.empty((0, 2), dtype=np.int64)

    def at(self, position: int) -> Place:
        """The sample at a position, 0 for the first that was ever seen."""
        epoch, within = divmod(position, self.epoch_samples)
        self._begin_epoch(epoch)
        group = bisect_right(self._starts, within) - 1
        self._begin_group(epoch, group)
        shard, index = self._mixed[within - self._starts[group]]
        return Place(epoch, int(shard), int(index))

    def batch(self, position: int, size: int, worker: int = 0, workers: int = 1) -> list[Place]:
        """What `worker` of `workers` takes of the global batch of `size` samples that begins at `position`."""
        return [self.at(at) for at in range(position + worker, position + size, workers)]

    def _begin_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes)).tolist()
        self._groups = [shards[at : at + self.mix] for at in range(0, len(shards), self.mix)]
        self._starts = []
        start = 0
        for group in self._groups:
            self._starts.append(start)
            start += sum(self.sizes[shard] for shard in group)
        self._epoch = epoch

    def _begin_group(self, epoch: int, group: int) -> None:
        if self._group == (epoch, group):
            return
        held = [[shard, index] for shard in self._groups[group] for index in range(self.sizes[shard])]
        rows: NDArray[Any] = np.array(held, dtype=np.int64).reshape(-1, 2)
        self._mixed = np.random.default_rng([self.seed, epoch, group]).permutation(rows, axis=0)
        self._group = (epoch, group)
