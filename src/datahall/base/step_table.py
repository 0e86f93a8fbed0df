"""The table that both worlds fill: named rows of one training step, with exact counts and with seconds.

A plan yields rows with counts (FLOPs, bytes, messages).  The virtual world adds forecast seconds, the meter adds
measured seconds and the counts of an independent observer.  The table does not estimate anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Component(StrEnum):
    """Where the seconds of a run go.  Forecast and measurement are compared by these."""

    COMPUTE = "compute"  # forward and backward arithmetic
    TRANSFER = "transfer"  # exposed communication: bytes that move while nothing else does
    WAITING = "waiting"  # one worker waits for another to arrive
    INPUT = "input"  # the loop waits for data
    OPTIMISER = "optimiser"  # update of parameters
    CHECKPOINT = "checkpoint"  # the loop waits for a checkpoint
    STARTUP = "startup"  # from launch to the first step


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a step on one worker.

    `flops` are floating-point operations (a multiply-add is two), `bytes` what the row reads and writes in memory
    (compute) or hands to a transfer, `messages` how many transfers, `kernels` how many device launches; `after` names
    the rows that must end before this one starts.  Counts are Python integers: a step may have 4e19 FLOPs.
    """

    name: str
    component: Component
    flops: int = 0
    bytes: int = 0
    messages: int = 0
    kernels: int = 0
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepTable:
    """The rows of one step of one worker, in order of issue."""

    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row called `name`; KeyError if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def total_flops(self, component: Component | None = None) -> int:
        """FLOPs of all rows, or of one component's."""
        return sum(row.flops for row in self.rows if component in (None, row.component))

    def total_bytes(self, component: Component) -> int:
        """Bytes of one component's rows."""
        return sum(row.bytes for row in self.rows if row.component is component)
