"""Starts the workers of one attempt and watches over them until they are done, dead, hanging, or not to be started.

Workers are plain subprocesses on this machine, unless another `start` (`ray_executor`) puts them elsewhere.  They end
with this process whatever happens to it: the launcher kills them when it leaves, and the kernel kills them when the
launcher is killed.  On Linux the kernel ties a worker to the thread that started it, so start workers from a thread
that lives as long as the run.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from datahall.base import errors
from datahall.base.errors import DatahallError, WorldFailed
from datahall.base.event import Event, OnEvent
from datahall.real.board import Board
from datahall.real.injection import Injection
from datahall.real.job import EXIT_LOST_PEER, Job
from datahall.real.process import ended_together, worker_environment

POLL_S = 0.05
LOST_NODE = -1000  # an exit code that no process has: the worker went with the machine under it
START_TIMEOUT_S = 180.0
HANG_TIMEOUT_S = 60.0
_LONG_PHASES = ("start", "observe")  # nothing is noted while a model is built, or evaluated at the end
_GRACE_S = 1.0  # after one worker lost another, for that one to show why


class WorkerProcess(Protocol):
    """A worker as the launcher sees it, wherever it runs; subprocess.Popen is one."""

    pid: int  # 0 where it is not a process of this machine

    def poll(self) -> int | None:
        """Its exit code: negative for a signal, None while it runs."""
        ...

    def send_signal(self, sig: int, /) -> None:
        """Kill or stop it."""
        ...


Start = Callable[[Job, Path], AbstractContextManager[Sequence[WorkerProcess]]]


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker is gone or hangs: which, after which step, and how it showed."""

    rank: int
    step: int
    how: str
    time_s: float


def run_attempt(
    job: Job,
    on_event: OnEvent | None = None,
    *,
    disturbance: Injection | None = None,
    hang_timeout_s: float = HANG_TIMEOUT_S,
    start: Start | None = None,
) -> Loss | None:
    """Start `job.workers` workers and wait; None when all are done, else what was lost.

    `start` begins the workers of the job file at a path, and ends them when its context is left; by default they are
    subprocesses here.

    A worker that fails by itself (an exception in the user's code, a full disk) raises that error here.  `disturbance`
    kills or stops a worker at its step.
    """
    path = job.folder / "workers" / f"job-{job.attempt}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    job.save(path)
    # What a run before this one left in the folder would be taken for this one's: an error, or where to meet.
    for old in (*job.folder.glob("failed-*.json"), *job.folder.glob("rendezvous-*")):
        old.unlink()
    with (start or local_workers())(job, path) as processes:
        return _Watch(job, processes, on_event, disturbance, hang_timeout_s).wait()


def local_workers(module: str = "datahall.real.worker") -> Start:
    """A way to start the workers of a job as subprocesses of `module` here."""

    @contextmanager
    def begin(job: Job, path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
        (job.folder / "board.bin").unlink(missing_ok=True)
        with ended_together() as processes:
            for rank in range(job.workers):
                processes.append(start_worker(job, path, rank, module))
            yield processes

    return begin


def start_worker(
    job: Job, path: Path, rank: int, module: str = "datahall.real.worker", *words: str
) -> subprocess.Popen[bytes]:
    """Start worker `rank` of the job saved at `path`; WorldFailed where this machine cannot."""
    environment = worker_environment(job.plan.compute.threads, job.interface)
    inside = ["ip", "netns", "exec", job.hosts[rank]] if job.hosts else []
    with (path.parent / f"{rank}.out").open("ab") as output:
        try:
            return subprocess.Popen(
                [*inside, sys.executable, "-m", module, str(path), str(rank), *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise WorldFailed(
                f"worker {rank} cannot be started: {error}.",
                where=sys.executable,
                hint="Check that this Python can start processes (ulimit -u, memory).",
            ) from error


class Tail:
    """Tells the events that a worker's log gains from now on."""

    def __init__(self, log: Path, on_event: OnEvent | None) -> None:
        self.log, self.on_event = log, on_event
        self.read_to = log.stat().st_size if log.exists() else 0

    def pass_on(self) -> None:
        """Tell what is new; a line that is half written comes the next time."""
        if self.on_event is None or not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self.read_to)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.read_to += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            self.on_event(Event(record.pop("time_s"), record.pop("kind"), record))


class _Watch:
    """The launcher's eyes during one attempt."""

    def __init__(
        self,
        job: Job,
        processes: Sequence[WorkerProcess],
        on_event: OnEvent | None,
        disturbance: Injection | None,
        hang_timeout_s: float,
    ) -> None:
        self.job = job
        self.processes = processes
        self.on_event = on_event
        self.disturbance = disturbance
        self.hang_timeout_s = hang_timeout_s
        self.board = Board(job.folder / "board.bin", job.workers)
        now_s = time.monotonic()
        self.heard = [(self.board.read(rank), now_s) for rank in range(job.workers)]  # last note, and when it was new
        self.log = job.folder / "workers" / f"{job.voice()}.jsonl"
        self.tail = Tail(self.log, on_event)

    def wait(self) -> Loss | None:
        while True:
            codes = [process.poll() for process in self.processes]
            self.tail.pass_on()
            if all(code == 0 for code in codes):
                return None
            if any(code not in (None, 0) for code in codes):
                return self._explain()
            if loss := self._hanging(codes):
                return loss
            self._disturb()
            time.sleep(POLL_S)

    def _explain(self) -> Loss:
        """Why a worker ended badly; raises the worker's own error where it had one.

        Workers that only lost another one do not say why: the others have a moment to.
        """
        until_s = time.monotonic() + _GRACE_S
        codes = [process.poll() for process in self.processes]
        while time.monotonic() < until_s and None in codes and all(one in (None, 0, EXIT_LOST_PEER) for one in codes):
            time.sleep(POLL_S)
            codes = [process.poll() for process in self.processes]
        now_s = time.monotonic() - self.job.origin_s
        for rank, code in enumerate(codes):
            if code == LOST_NODE:
                return Loss(rank, self.board.read(rank).step, "its node is gone", now_s)
        for rank, code in enumerate(codes):
            if code is not None and code < 0:
                step = self.board.read(rank).step
                return Loss(rank, step, f"killed by {signal.Signals(-code).name}", now_s)
        for rank, code in enumerate(codes):
            if code not in (None, 0, EXIT_LOST_PEER):
                raise self._own_error(rank, code)
        rank = codes.index(EXIT_LOST_PEER)
        return Loss(rank, self.board.read(rank).step, "lost the connection to the others", now_s)

    def _own_error(self, rank: int, code: int | None) -> DatahallError:
        told = self.job.folder / f"failed-{rank}.json"
        output = self.log.parent / f"{rank}.out"
        if not told.exists():
            lines = output.read_text(errors="replace").strip().splitlines()[-1:]
            return WorldFailed(
                f"worker {rank} could not start (exit code {code}): {' '.join(lines)}",
                where=str(output),
                hint="Read the worker's output for the whole story.",
            )
        error = json.loads(told.read_text())
        kind = getattr(errors, error["type"], None)
        if isinstance(kind, type) and issubclass(kind, DatahallError):
            return kind(error["what"], where=error["where"], hint=error["hint"])
        return WorldFailed(
            f"worker {rank} failed after step {self.board.read(rank).step}: {error['what']}",
            where=str(output),
            hint="Read the worker's output for the whole story.",
        )

    def _hanging(self, codes: list[int | None]) -> Loss | None:
        """The worker that has been silent too long outside the exchange, where others only wait for it."""
        now_s = time.monotonic()
        notes = [self.board.read(rank) for rank in range(self.job.workers)]
        for rank, note in enumerate(notes):  # by this machine's clock, since another's need not agree with it
            if note != self.heard[rank][0]:
                self.heard[rank] = (note, now_s)
        silent = [
            rank
            for rank, note in enumerate(notes)
            if codes[rank] is None
            and now_s - self.heard[rank][1] > (START_TIMEOUT_S if note.phase in _LONG_PHASES else self.hang_timeout_s)
        ]
        if not silent:
            return None
        elsewhere = [rank for rank in silent if notes[rank].phase not in ("exchange", "done")]
        stopped = [rank for rank in silent if _is_stopped(self.processes[rank].pid)]
        guilty = (stopped or elsewhere or silent)[0]
        note = notes[guilty]
        return Loss(guilty, note.step, f"hung in {note.phase}", now_s - self.job.origin_s)

    def _disturb(self) -> None:
        wanted = self.disturbance
        if wanted is None or wanted.kind not in ("kill-worker", "hang-worker"):
            return
        note = self.board.read(wanted.rank)
        if note.time_s > 0 and note.step >= wanted.step and note.phase != "start":
            self.disturbance = None
            how = signal.SIGKILL if wanted.kind == "kill-worker" else signal.SIGSTOP
            self.processes[wanted.rank].send_signal(how)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
