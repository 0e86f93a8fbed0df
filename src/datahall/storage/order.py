"""The order in which the samples of a data set are seen: a pure function of seed and position.

Every epoch draws an order of the shards and mixes the samples of `mix` shards at a time; data that lie in memory are
one shard.  The position, samples seen by all workers together since the beginning, is the whole state: it goes into the
checkpoint, and any number of workers goes on from it without losing or repeating a sample.  Nothing is read here.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import UsageError

MIX = 4  # shards whose samples are mixed, where nobody says


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample lies: its shard and its number there."""

    shard: int
    index: int


class Order:
    """The order of a data set with `sizes[i]` samples in shard i; samples are numbered through all shards.

    `content` is a digest of the data, where there is one: it changes `identity` and no order.
    """

    def __init__(self, sizes: Sequence[int], seed: int, mix: int = MIX, content: str = "") -> None:
        if not sizes or min(sizes) < 0 or sum(sizes) == 0:
            raise UsageError("the data set has no samples.", hint="Choose shorter samples, or larger shards.")
        self.sizes = tuple(sizes)
        self.seed = seed
        self.mix = max(1, mix)
        self.content = content
        self.epoch_samples = sum(sizes)
        self._firsts = [0, *accumulate(sizes)][:-1]
        self._epoch = -1
        self._groups: list[list[int]] = []
        self._starts: list[int] = []
        self._group: tuple[int, int] = (-1, -1)
        self._mixed: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def batch(self, position: int, size: int, worker: int = 0, workers: int = 1) -> list[int]:
        """The samples that `worker` of `workers` takes of the global batch of `size` that begins at `position`.

        Its share is in one piece, so that all shares one after the other are the batch.
        """
        at, end = position + size * worker // workers, position + size * (worker + 1) // workers
        found: list[int] = []
        while at < end:
            epoch, within = divmod(at, self.epoch_samples)
            self._begin_epoch(epoch)
            group = bisect_right(self._starts, within) - 1
            self._begin_group(epoch, group)
            start = within - self._starts[group]
            part: list[int] = self._mixed[start : start + end - at].tolist()
            found += part
            at += len(part)
        return found

    def identity(self) -> dict[str, int | str]:
        """What must be the same for a position to mean the same, as plain values."""
        sizes = hashlib.sha256(repr((self.sizes, self.content)).encode()).hexdigest()[:16]
        return {"seed": self.seed, "mix": self.mix, "samples": self.epoch_samples, "shards": sizes}

    def place(self, number: int) -> Place:
        """Where the sample with this number lies."""
        shard = bisect_right(self._firsts, number) - 1
        return Place(shard, number - self._firsts[shard])

    def _begin_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes)).tolist()
        self._groups = [shards[at : at + self.mix] for at in range(0, len(shards), self.mix)]
        held = [sum(self.sizes[shard] for shard in group) for group in self._groups]
        self._starts = [0, *accumulate(held)][:-1]
        self._epoch = epoch

    def _begin_group(self, epoch: int, group: int) -> None:
        if self._group == (epoch, group):
            return
        firsts, sizes = self._firsts, self.sizes
        held = [np.arange(firsts[shard], firsts[shard] + sizes[shard]) for shard in self._groups[group]]
        self._mixed = np.random.default_rng([self.seed, epoch, group]).permutation(np.concatenate(held))
        self._group = (epoch, group)
