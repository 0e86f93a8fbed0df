"""What happened, when: the entries of an event log, written and read as JSON lines.

An event carries its own time; nothing here reads a clock.  A log that was cut off in the middle of a line (a killed
writer) reads up to its last whole line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: seconds since the log's start, a kind, and plain JSON data."""

    time_s: float
    kind: str
    data: dict[str, Any] = dataclass_field(default_factory=dict[str, Any])

    def to_line(self) -> str:
        """The event as one line of JSON, without the line's end."""
        return json.dumps({"time_s": self.time_s, "kind": self.kind, **self.data}, separators=(",", ":"))


OnEvent = Callable[[Event], None]  # who hears of events as they happen


def read_events(path: Path) -> Iterator[Event]:
    """The whole events of a JSONL log, in its order."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            record = json.loads(line)
            yield Event(record.pop("time_s"), record.pop("kind"), record)
