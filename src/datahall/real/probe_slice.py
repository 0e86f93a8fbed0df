"""The time slice: how long the system leaves a process on a core that another one wants, from two that share a core.

It also runs as these two: `python -m datahall.real.probe_slice core seconds parent`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

from datahall.real.process import die_with_parent, ended_together, worker_environment

_AWAY_S = 3e-4  # between two looks at the clock: longer than an interrupt, shorter than another's slice
_FEWEST = 10


def slice_s(seconds: float = 0.4) -> float | None:
    """The median slice; None where processes cannot be bound to a core, or where none was interrupted."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    given = [str(min(os.sched_getaffinity(0))), str(seconds), str(os.getpid())]
    with ended_together() as running:
        for _ in range(2):
            command = [sys.executable, "-m", "datahall.real.probe_slice", *given]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=worker_environment(1, "lo")))
        found = sorted(length for one in running for length in json.loads(one.communicate()[0] or b"[]"))
    return found[len(found) // 2] if len(found) >= _FEWEST else None


def slices(times_s: Iterable[float]) -> Iterator[float]:
    """The lengths of what lies between gaps in `times_s`; neither what the first gap ends nor what the end does."""
    began_s = last_s = None
    for now_s in times_s:
        if last_s is not None and now_s - last_s > _AWAY_S:
            if began_s is not None:
                yield last_s - began_s
            began_s = now_s
        last_s = now_s


def _looks(seconds: float) -> Iterator[float]:
    now_s = time.perf_counter()
    end_s = now_s + seconds
    while now_s < end_s:
        yield now_s
        now_s = time.perf_counter()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[3]))
    os.sched_setaffinity(0, {int(sys.argv[1])})
    print(json.dumps(list(slices(_looks(float(sys.argv[2]))))))
