"""The batches that every engine reads: the same images in the same order, each worker its own share.

What was really handed to the engine is logged here, sample by sample; counts of samples come from that log.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datahall.base.errors import Incompatible
from datahall.storage.order import Order


class Loader:
    """A worker's share of each global batch.  The share depends on seed, step and rank and on no engine."""

    def __init__(self, images: np.ndarray, classes: np.ndarray, seed: int, batch: int, rank: int, workers: int) -> None:
        check_shares(batch, workers, len(classes))
        self.images, self.classes = images, classes
        self.order = Order([len(classes)], seed)
        self.batch, self.rank, self.workers = batch, rank, workers
        self.read: list[np.ndarray] = []

    def share(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and classes of this worker in `step`; notes which they were."""
        ids = np.asarray(self.order.batch(step * self.batch, self.batch, self.rank, self.workers))
        self.read.append(ids)
        return self.images[ids], self.classes[ids]

    def save(self, path: Path) -> None:
        """Write the log: a row a step, the numbers of the samples in their order."""
        np.save(path, np.stack(self.read) if self.read else np.zeros((0, 0), np.int64), allow_pickle=False)


def check_shares(batch: int, workers: int, samples: int) -> None:
    """Incompatible unless `workers` can share a batch of `batch` of the `samples` images evenly."""
    if batch % workers or not 0 < batch <= samples:
        raise Incompatible(
            f"{workers} workers cannot share a batch of {batch} of {samples:,} images evenly.",
            where="--batch, --workers",
            hint=f"Choose a multiple of {workers} up to {samples:,}.",
        )
