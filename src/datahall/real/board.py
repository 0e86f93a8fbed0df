"""A board in shared memory on which every worker notes its step and phase, so that a hanging one can be named.

Sixteen bytes and a time per worker, overwritten in place; history is the event log's business.
"""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path

PHASES = (
    "start", "input", "forward", "backward", "agreeing", "exchange", "optimiser", "checkpoint", "idle", "observe",
    "done",
)  # fmt: skip
_NUMBER = {phase: number for number, phase in enumerate(PHASES)}
_ENTRY = struct.Struct("qqd")


@dataclass(frozen=True, slots=True)
class Note:
    """What a worker noted last: its step, its phase, and when (seconds of the monotonic clock)."""

    step: int
    phase: str
    time_s: float


class Board:
    """The board of `workers` workers in the file at `path`; whoever comes first makes it."""

    def __init__(self, path: Path, workers: int) -> None:
        self.path = path
        with path.open("a+b") as file:
            file.truncate(max(path.stat().st_size, workers * _ENTRY.size))
            self.memory = mmap.mmap(file.fileno(), 0)

    def note(self, rank: int, step: int, phase: str) -> None:
        """Worker `rank` begins `phase` of `step` now."""
        _ENTRY.pack_into(self.memory, rank * _ENTRY.size, step, _NUMBER[phase], time.monotonic())

    def read(self, rank: int) -> Note:
        """What worker `rank` noted last."""
        step, number, time_s = _ENTRY.unpack_from(self.memory, rank * _ENTRY.size)
        return Note(step, PHASES[number], time_s)
