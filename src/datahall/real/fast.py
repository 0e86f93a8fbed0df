"""Fast recovery: a lost worker costs the others a step, not a restart; what it would have read is dropped and counted.

torchft (an extra) agrees before each step on who takes part, and a replaced worker takes the weights over from another.
The launcher here starts every worker, kills on demand, replaces the dead and counts.  Exact recovery (`training.run`)
loses no sample and stops everybody; this loses samples and stops nobody.  Data parallelism on local processes only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datahall.base.errors import Refused, UsageError, WorldFailed
from datahall.base.event import Event, OnEvent
from datahall.case.question import Case
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.real.board import Board
from datahall.real.injection import Injection
from datahall.real.job import Job
from datahall.real.launch import POLL_S, Loss, Tail, start_worker
from datahall.real.measure import Step
from datahall.real.training import Measurement, check_batches, measurement
from datahall.real.turns import load_average, turn

WORKER = "datahall.real.fast_worker"
REPLACEMENT = "replacement"  # a word for a worker that must join others and never begin anew
EXIT_ALONE = 3  # a replacement that found nobody
MOST_REPLACEMENTS = 10
_JOIN_TIMEOUT_MS = 100  # that a quorum waits for a worker that is alive and late
_HEARTBEAT_TIMEOUT_MS = 1000  # after which a silent worker is dead
_END_S = 20.0  # for the last workers to end after the first has


@dataclass(frozen=True, slots=True)
class FastRun:
    """A run with fast recovery.

    `dropped` maps a step to how many samples of its global batch nobody learnt from; `longest_step_s` is the longest
    step of a worker that was there all the time, `usual_step_s` the median of its steps.
    """

    measured: Measurement
    dropped: Mapping[int, int]
    longest_step_s: float
    usual_step_s: float

    @property
    def dropped_samples(self) -> int:
        """All samples that were dropped."""
        return sum(self.dropped.values())


def check_fast(plan: Plan) -> None:
    """Refused for what fast recovery does not run; UsageError where torchft is missing."""
    compute, network = plan.compute, plan.network
    split = max(compute.tensor, compute.pipeline, compute.context, compute.expert) > 1 or compute.zero_stage
    if split or compute.data < 2 or network.compression != "none" or network.local_steps > 1:
        raise Refused(
            "fast recovery runs plain data parallelism with two workers or more.",
            where="--recovery",
            hint="Choose --recovery exact, or --workers 2 without --split and --exchange.",
        )
    os.environ.setdefault("RUST_LOG", "error")  # read when torchft is loaded, or it tells of every step
    try:
        import torchft.coordination  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except ModuleNotFoundError as error:
        raise UsageError(
            f"fast recovery needs {error.name}, which is not installed.", hint="Install datahall[fast]."
        ) from error


def run_fast(
    case: Case,
    plan: Plan,
    folder: Path,
    *,
    steps: int | None = None,
    kills: Sequence[Injection] = (),
    on_event: OnEvent | None = None,
    import_paths: Sequence[str] = (),
    keep_weights: bool = False,
) -> FastRun:
    """Train as `training.run` does; workers that die are replaced while the others go on.

    `kills` are disturbances of kind kill-worker, each carried out once.  WorldFailed when all workers are lost.
    """
    plan.check_belongs_to(case)
    check_fast(plan)
    check_batches(plan, [plan.compute.devices])
    (folder / "workers").mkdir(parents=True, exist_ok=True)
    load_before = load_average()
    with turn(), _lighthouse() as address:
        job = Job(
            case=case,
            plan=plan,
            folder=folder,
            stop=steps if steps is not None else case.application.steps,
            workers=plan.compute.devices,
            attempt=0,
            origin_s=time.monotonic(),
            parent=os.getpid(),
            rendezvous=address,
            import_paths=tuple(import_paths),
            keep_weights=keep_weights,
        )
        watch = _Watch(job, list(kills), on_event)
        lost = watch.play()
        ended_s = time.monotonic() - job.origin_s
    measured = measurement(case, plan, folder, lost, ended_s, (load_before, load_average()))
    return FastRun(measured, dropped_samples(plan.compute, measured), *_survivor(measured))


def dropped_samples(compute: ComputePlan, measured: Measurement) -> dict[int, int]:
    """By step, how many samples of the global batch no worker learnt from; from the loaders' logs."""
    read = {step.number: len(measured.samples.get(step.number, ())) for step in measured.steps}
    return {number: compute.global_batch - count for number, count in read.items() if count < compute.global_batch}


def _survivor(measured: Measurement) -> tuple[float, float]:
    """The longest and the median step of the workers that were never lost, the first steps aside."""
    gone = {loss.rank for loss in measured.lost}
    seen = [
        worker.step_s
        for step in measured.steps
        if step.steady
        for worker in step.workers
        if worker.rank not in gone or not _others(step, gone)
    ]
    ordered = sorted(seen) or [0.0]
    return ordered[-1], ordered[len(ordered) // 2]


def _others(step: Step, gone: set[int]) -> bool:
    return any(worker.rank not in gone for worker in step.workers)


@contextmanager
def _lighthouse() -> Iterator[str]:
    """torchft's meeting point, in this process and on loopback only; its address."""
    from torchft.coordination import LighthouseServer  # pyright: ignore[reportMissingImports]

    server: Any = LighthouseServer(
        bind="127.0.0.1:0",
        min_replicas=1,
        join_timeout_ms=_JOIN_TIMEOUT_MS,
        quorum_tick_ms=50,
        heartbeat_timeout_ms=_HEARTBEAT_TIMEOUT_MS,
    )
    try:
        yield "http://127.0.0.1:" + server.address().rsplit(":", 1)[1]
    finally:
        server.shutdown()


class _Watch:
    """Keeps every worker running until the run is over."""

    def __init__(self, job: Job, kills: list[Injection], on_event: OnEvent | None) -> None:
        self.job, self.kills, self.on_event = job, kills, on_event
        self.path = job.folder / "workers" / "job-0.json"
        job.save(self.path)
        (job.folder / "board.bin").unlink(missing_ok=True)
        self.lost: list[Loss] = []
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.board = Board(job.folder / "board.bin", job.workers)
        self.first_end_s = 0.0
        self.tail = Tail(job.folder / "workers" / "0.jsonl", on_event)

    def play(self) -> list[Loss]:
        try:
            for rank in range(self.job.workers):
                self.processes[rank] = start_worker(self.job, self.path, rank, WORKER)
            self._say("launched", attempt=0, workers=self.job.workers)
            while self._look():
                self.tail.pass_on()
                self._disturb()
                time.sleep(POLL_S)
            self.tail.pass_on()
        finally:
            for process in self.processes.values():
                if process.poll() is None:
                    process.kill()
                process.wait()
        self._say("finished", attempts=1 + len(self.lost))
        return self.lost

    def _look(self) -> bool:
        """Replace the dead; False when the run is over."""
        codes = {rank: process.poll() for rank, process in self.processes.items()}
        if any(code == 0 for code in codes.values()):
            return self._ending([rank for rank, code in codes.items() if code is None])
        for rank, code in codes.items():
            if code is not None and code != EXIT_ALONE:
                self._replace(rank, code)
        return True

    def _ending(self, running: list[int]) -> bool:
        """Whether to wait for workers after the first has done all steps: for those that are as far as it was."""
        now_s = time.monotonic()
        self.first_end_s = self.first_end_s or now_s
        near = [rank for rank in running if self.board.read(rank).step >= self.job.stop - 1]
        return bool(near) and now_s - self.first_end_s < _END_S

    def _replace(self, rank: int, code: int) -> None:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        loss = Loss(rank, self.board.read(rank).step, how, time.monotonic() - self.job.origin_s)
        self.lost.append(loss)
        self._say("lost", worker=rank, step=loss.step, how=how)
        alive = [one for one, process in self.processes.items() if process.poll() is None]
        if len(self.lost) > MOST_REPLACEMENTS or not alive or code > 0:
            raise WorldFailed(
                f"worker {rank} {how} in step {loss.step}" + ("." if alive else ", and no other was left."),
                where=str(self.job.folder / "workers" / f"{rank}.out"),
                hint="Read the worker's output.  When every worker may die at once, use --recovery exact.",
            )
        self.processes[rank] = start_worker(self.job, self.path, rank, WORKER, REPLACEMENT)
        self._say("replaced", worker=rank)

    def _disturb(self) -> None:
        for kill in list(self.kills):
            note = self.board.read(kill.rank)
            if note.time_s > 0 and note.step >= kill.step and note.phase not in ("start", "done"):
                self.kills.remove(kill)
                os.kill(self.processes[kill.rank].pid, signal.SIGKILL)

    def _say(self, kind: str, **data: object) -> None:
        if self.on_event is not None:
            self.on_event(Event(time.monotonic() - self.job.origin_s, kind, dict(data)))
