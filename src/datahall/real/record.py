"""What a worker writes down: the phases of each step, events, and the loader's own log of samples.

Files grow by whole lines, flushed once a step; times are seconds since the run's start on the shared monotonic clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from datahall.base.event import Event
from datahall.real.board import Board


class PhaseClock(Protocol):
    """Times phases where the host's clock cannot."""

    def mark(self, phase: str) -> None:
        """`phase` begins now."""
        ...

    def resolve(self) -> list[tuple[str, float]]:
        """The marks since the last call, in seconds since the run's start."""
        ...


class Recorder:
    """The record of one worker of one attempt.  `mark` is cheap enough for the inside of a step."""

    def __init__(self, folder: Path, rank: int, workers: int, attempt: int, origin_s: float) -> None:
        self.rank = rank
        self.attempt = attempt
        self.origin_s = origin_s
        self.step = 0
        self.clock: PhaseClock | None = None  # for devices that the host runs ahead of
        self.marks: list[tuple[str, float]] = []
        self.transfers: list[tuple[int, float, float]] = []
        self.board = Board(folder / "board.bin", workers)
        self.events = (folder / "workers" / f"{rank}.jsonl").open("a", encoding="utf-8")
        self.loader = (folder / "workers" / f"loader-{rank}.jsonl").open("a", encoding="utf-8")

    def now(self) -> float:
        """Seconds since the run's start."""
        return time.monotonic() - self.origin_s

    def mark(self, phase: str) -> None:
        """`phase` begins now (the one before it ends)."""
        if self.clock is None:
            self.marks.append((phase, self.now()))
        else:
            self.clock.mark(phase)
        self.board.note(self.rank, self.step, phase)

    def transfer(self, count: int, handed_s: float, done_s: float) -> None:
        """One collective of `count` bytes was handed over and ended at these times."""
        self.transfers.append((count, handed_s, done_s))

    def event(self, kind: str, **data: Any) -> None:
        """Write an event of this worker, and flush."""
        self._line(Event(round(self.now(), 6), kind, {"rank": self.rank, "attempt": self.attempt, **data}))
        self.events.flush()

    def loaded(self, ids: Sequence[int]) -> None:
        """The loader handed out these samples."""
        entry = {"attempt": self.attempt, "step": self.step, "ids": list(ids)}
        self.loader.write(json.dumps(entry, separators=(",", ":")) + "\n")

    def end_step(self, **data: Any) -> None:
        """Write the step's marks and transfers with `data`, and begin the next step's."""
        times = self.marks if self.clock is None else self.clock.resolve()
        marks = [(phase, round(at, 6)) for phase, at in times]
        transfers = [(count, round(handed, 6), round(done, 6)) for count, handed, done in self.transfers]
        self.marks.clear()
        self.transfers.clear()
        self.loader.flush()
        self.event("step", step=self.step, marks=marks, transfers=transfers, **data)
        self.step += 1

    def close(self) -> None:
        """Close the files."""
        self.board.note(self.rank, self.step, "done")
        self.events.close()
        self.loader.close()

    def _line(self, event: Event) -> None:
        self.events.write(event.to_line() + "\n")
