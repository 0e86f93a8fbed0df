"""A worker as a process: the environment it gets, and that it does not outlive whoever started it.

No engine is imported here, so that launchers and workers of every engine can use it.  Starting and watching is theirs.
"""

from __future__ import annotations

import os
import sys


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
