"""A file of a store while it is written: all of it becomes durable, or it is given up."""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """A file being written."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`."""
        ...

    def close(self) -> None:
        """Return when the file is durable."""
        ...

    def abandon(self) -> None:
        """Give the file up after a failure."""
        ...
