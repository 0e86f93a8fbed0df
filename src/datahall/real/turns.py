"""Timed sections of all datahall processes on a machine take turns, so that they do not measure each other.

An advisory lock on a file in the user's runtime folder; other programs' load it cannot keep away, so the load is read.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_held = threading.local()


@contextmanager
def turn(on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the machine's turn; `on_wait` is called once if another process has it.  Nested turns are one turn."""
    depth = getattr(_held, "depth", 0)
    if depth:
        _held.depth = depth + 1
        try:
            yield
        finally:
            _held.depth -= 1
        return
    with lock_path().open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        _held.depth = 1
        try:
            yield
        finally:
            _held.depth = 0


def lock_path() -> Path:
    """The lock file: in $XDG_RUNTIME_DIR, or in a folder of the user's own under the temporary one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        folder = Path(runtime) / "datahall"
    else:
        folder = Path(tempfile.gettempdir()) / f"datahall-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "turn.lock"


def load_average() -> float:
    """Runnable processes on this machine, averaged over the last minute."""
    return os.getloadavg()[0]
