"""Times of phases on a GPU by CUDA events, put on the run's host clock.

NEVER RUN ON A GPU YET: written from CUDA's documentation, on a machine without one.  `datahall gpu-check` runs it and
writes a result that can be sent in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class CudaClock:
    """Phases of one step after the other.

    The host runs ahead of the device, so a host time says when work was issued, not when it was done.  An event is
    recorded in the stream at each mark; the first one of a step ties the device's clock to the host's.
    """

    def __init__(self, device: torch.device, now: Callable[[], float]) -> None:
        self.device = device
        self.now = now
        self.began: tuple[float, Any] | None = None
        self.events: list[tuple[str, Any]] = []

    def mark(self, phase: str) -> None:
        """`phase` begins when the device gets here."""
        if self.began is None:
            torch.cuda.synchronize(self.device)
            self.began = (self.now(), self._recorded())
        self.events.append((phase, self._recorded()))

    def resolve(self) -> list[tuple[str, float]]:
        """The marks since the last call with their seconds on the host's clock; waits for the device."""
        if self.began is None:
            return []
        torch.cuda.synchronize(self.device)
        begin_s, first = self.began
        marks = [(phase, begin_s + first.elapsed_time(event) / 1e3) for phase, event in self.events]
        self.began = None
        self.events.clear()
        return marks

    def _recorded(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event
