"""A store behind a slow link, for the benchmarks: a clock that all threads of the client share holds bytes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datahall.storage import execute
from datahall.storage.place import LocalPlace
from datahall.storage.sink import Sink


class ShapedPlace(LocalPlace):
    """A local folder behind a link of `bytes_per_s`."""

    def __init__(self, root: Path, bytes_per_s: float) -> None:
        super().__init__(root)
        self._rate = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def hold(self, count: int) -> None:
        """Return when `count` bytes have passed the link."""
        with self._lock:
            self._free_at = max(self._free_at, time.perf_counter()) + count / self._rate
            until = self._free_at
        time.sleep(max(0.0, until - time.perf_counter()))

    def create(self, folder: str, name: str) -> Sink:
        """A file whose bytes are held back."""
        return _ShapedSink(super().create(folder, name), self.hold)

    def read_into(self, folder: str, name: str, offset: int, target: memoryview) -> int:
        """Bytes that are held back."""
        self.hold(len(target))
        return super().read_into(folder, name, offset, target)


class _ShapedSink:
    def __init__(self, inner: Sink, hold: Callable[[int], None]) -> None:
        self._inner, self._hold = inner, hold

    def write(self, data: Any) -> None:
        self._hold(len(data))
        self._inner.write(data)

    def close(self) -> None:
        self._inner.close()

    def abandon(self) -> None:
        self._inner.abandon()


@contextmanager
def shaped(bytes_per_s: float) -> Iterator[None]:
    """Within it, local stores of this process are behind one link of that rate."""
    original = execute.open_place
    execute.open_place = lambda path: ShapedPlace(Path(path), bytes_per_s)
    try:
        yield
    finally:
        execute.open_place = original
