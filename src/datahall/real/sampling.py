"""Which samples a step reads: a pure function of seed, step and position, the same for any number of workers.

Sampling is without replacement: each pass over the data is a permutation drawn from (seed, pass).  A position is
nothing but the number of the step, so a resumed run reads on where the committed one stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def step_samples(seed: int, step: int, global_batch: int, size: int) -> list[int]:
    """The samples (0 to size - 1) of the global batch of `step`, in their order."""
    place, end = step * global_batch, (step + 1) * global_batch
    found: list[int] = []
    while place < end:
        at = place % size
        found += _permutation(seed, place // size, size)[at : at + end - place].tolist()
        place = step * global_batch + len(found)
    return found


def worker_share(samples: Sequence[int], rank: int, world: int, micro_batch: int) -> list[Sequence[int]]:
    """The micro-batches of worker `rank` of `world`: a contiguous share, cut into pieces of `micro_batch`."""
    count = len(samples) // world
    mine = samples[rank * count : (rank + 1) * count]
    return [mine[at : at + micro_batch] for at in range(0, count, micro_batch)]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)
