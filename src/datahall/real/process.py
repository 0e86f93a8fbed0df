"""A worker as a process: the environment it gets, and that it ends with whoever started it.

No engine is imported here, so that launchers and workers of every engine can use it.  Starting and watching is theirs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def worker_environment(threads: int, interface: str) -> dict[str, str]:
    """The environment of a worker process: this one's modules, its number of threads, its network device."""
    count = str(threads)
    return {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "GLOO_SOCKET_IFNAME": interface,
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }


@contextmanager
def ended_together() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list for processes that are started inside; whatever happens, all of them have ended when it is left."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        for process in processes:
            process.wait()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (Linux); ends at once if the parent is gone already."""
    import ctypes
    import signal

    try:
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return  # not Linux: the launcher ends its workers itself
    if os.getppid() != parent:
        os._exit(1)
