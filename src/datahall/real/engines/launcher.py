"""Starts the processes of one engine on this machine, waits, and says which one failed and why.

Each worker is a process of its own, so that engines never meet in one.  Nothing is restarted: `real.training` is the
place for trainings that survive a lost worker.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from datahall.base.errors import WorldFailed
from datahall.real.engines.enclosure import enclosure
from datahall.real.engines.engine import entry_of
from datahall.real.engines.task import Task
from datahall.real.process import ended_together, worker_environment

HOST = "127.0.0.1"
POLL_S = 0.05
TIMEOUT_S = 300.0
_GRACE_S = 2.0  # after one worker failed, for the others to show why


def carry_out(task: Task, port: int = 0, *, open_ports: bool = False, timeout_s: float = TIMEOUT_S) -> None:
    """Let `task.workers` processes carry out `task`; their results lie in its folder.

    `port` is the first of one port a worker that the engine may listen on (0: free ones).  Workers of an engine that
    would listen on every interface get a network of their own, unless `open_ports` says that they may.  UsageError when
    the engine is not installed, WorldFailed when a port is in use, a network cannot be made, or a worker fails or is
    not done in `timeout_s`.
    """
    enclosed = entry_of(task.engine).listens_beyond and task.workers > 1 and not open_ports
    task.folder.mkdir(parents=True, exist_ok=True)
    addresses = tuple(f"{HOST}:{number}" for number in ports(task.workers, port))
    told = replace(task, folder=task.folder.resolve(), addresses=addresses, parent=os.getpid())
    for old in [*told.folder.glob("result-*.json"), *told.folder.glob("rendezvous")]:
        old.unlink()
    told.save(told.folder / "task.json")
    with enclosure() if enclosed else nullcontext([]) as before, _workers(told, before) as processes:
        _wait(told, processes, timeout_s)


def ports(count: int, first: int = 0) -> list[int]:
    """`count` ports of this machine that nobody listens on: from `first` on, or (0) any.  WorldFailed if one is used.

    They are free when they are looked at; the engines open them a moment later.
    """
    held: list[socket.socket] = []
    try:
        for number in range(count):
            one = socket.socket()
            held.append(one)
            wanted = first + number if first else 0
            try:
                one.bind((HOST, wanted))
            except (OSError, OverflowError) as error:
                raise WorldFailed(
                    f"port {wanted} cannot be used: {getattr(error, 'strerror', None) or error}.",
                    where="--port",
                    hint="Name another one, or none to let the system choose.",
                ) from error
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


@contextmanager
def _workers(task: Task, before: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    # TensorFlow leaves the source that it generates among temporary files: they go with the run
    with tempfile.TemporaryDirectory(prefix="datahall-") as scratch, ended_together() as processes:
        for rank in range(task.workers):
            processes.append(_start(task, rank, before, scratch))
        yield processes


def _start(task: Task, rank: int, before: list[str], scratch: str) -> subprocess.Popen[bytes]:
    with (task.folder / f"worker-{rank}.out").open("wb") as output:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "datahall.real.engines.worker", str(task.folder / "task.json"), str(rank)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**worker_environment(task.threads, "lo"), "TMPDIR": scratch},
            start_new_session=True,
        )


def _wait(task: Task, processes: list[subprocess.Popen[bytes]], timeout_s: float) -> None:
    ends_s = time.monotonic() + timeout_s
    while True:
        codes = [process.poll() for process in processes]
        if all(code == 0 for code in codes):
            return
        if any(code not in (None, 0) for code in codes):
            ends_s = min(ends_s, time.monotonic() + _GRACE_S)
        late = time.monotonic() > ends_s
        if late or (None not in codes):
            raise _failure(task, codes, timeout_s)
        time.sleep(POLL_S)


def _failure(task: Task, codes: list[int | None], timeout_s: float) -> WorldFailed:
    """The worker that failed by itself: killed by a signal first, then an error of its own, then whoever is late."""
    failed = sorted((code, rank) for rank, code in enumerate(codes) if code not in (None, 0))
    rank = failed[0][1] if failed else codes.index(None)
    output = task.folder / f"worker-{rank}.out"
    lines = output.read_text(errors="replace").strip().splitlines()
    last = f" {lines[-1][:300]}" if lines else ""
    how = f"failed (exit code {failed[0][0]}):" if failed else f"was not done after {timeout_s:.0f} s:"
    return WorldFailed(
        f"worker {rank} of {task.engine} {how}{last}",
        where=str(output),
        hint="Read the worker's output for the whole story.",
    )
