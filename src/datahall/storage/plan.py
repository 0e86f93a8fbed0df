"""Where and how a run's checkpoints are written (interval, shards, codec, in the background), and its data read.

The value only; `estimate` says what it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_SHARDS: Final = 4  # files of a rank, where nobody says
CHUNK_BYTES: Final = 4 << 20  # the unit of coding, checking and reading
PIECE_BYTES: Final = 2 * CHUNK_BYTES  # what a thread writes to a disk at once: less leaves the disk waiting


@dataclass(frozen=True, slots=True)
class StoragePlan:
    """How checkpoints are kept, and how the data are read.

    `interval_steps` 0 writes none; `shards` is files of each rank, one thread each; `keep` is how many committed ones
    stay.  `ahead` micro-batches are read before they are asked for (0: none);
    `cache_bytes` of prepared shards are kept by all workers together (0: no cache), by an eviction policy.
    """

    interval_steps: int = 0
    shards: int = 1
    codec: str = "none"
    asynchronous: bool = False
    keep: int = 2
    ahead: int = 0
    cache_bytes: int = 0
    cache_policy: str = "lru"


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """Which keys and values of prompts are kept for prompts that begin alike, in blocks of `block_tokens`.

    At most `memory_bytes` in memory (0: nothing is kept) and `tier_bytes` in a slower tier (0: there is none), by one
    eviction policy; which tier, whoever carries it out is told.
    """

    memory_bytes: int = 0
    policy: str = "lru"
    block_tokens: int = 16
    tier_bytes: int = 0
