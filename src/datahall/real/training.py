"""Plays a training plan on real processes: `run` launches, watches, restarts, and gives back a Measurement.

It does not choose the plan and knows no forecast.  After a lost worker it starts again from the last committed
checkpoint with the same global batch, so that no sample of the committed history is lost or read twice.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from datahall.base.errors import Refused, UsageError, WorldFailed
from datahall.base.event import Event, OnEvent
from datahall.base.metric import exactly
from datahall.base.result import Result
from datahall.case.question import Case
from datahall.compute.layout import check_runnable
from datahall.decisions.plan import Plan
from datahall.network.execute_namespaces import INTERFACE, LinkShape, hosts
from datahall.real.injection import Injection
from datahall.real.input import CACHES
from datahall.real.job import Job
from datahall.real.launch import HANG_TIMEOUT_S, Loss, Start, run_attempt
from datahall.real.measure import Step, read_kind, read_samples, read_steps
from datahall.real.summary import counts_of, run_metrics, step_metrics, use_metrics, view_rank
from datahall.real.turns import load_average, turn

MAX_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Measurement:
    """One real run.

    `result` is the schema that both worlds share.  `steps` is the committed history by component and worker, `losses`
    the mean loss of each step, `samples` what the loader handed out in each, `lost` the workers that were lost on the
    way, `metrics` the workload's own (validation_loss), `view_rank` the worker whose components `result` shows: the one
    that waited longest.
    """

    result: Result
    steps: tuple[Step, ...]
    losses: tuple[float, ...]
    samples: Mapping[int, Sequence[int]]
    lost: tuple[Loss, ...]
    metrics: Mapping[str, float]
    view_rank: int
    load_before: float
    load_during: float
    folder: Path


def run(
    case: Case,
    plan: Plan,
    folder: Path,
    *,
    steps: int | None = None,
    injection: Injection | None = None,
    on_event: OnEvent | None = None,
    workers_from: Mapping[int, int] | None = None,
    link: LinkShape | None = None,
    import_paths: Sequence[str] = (),
    keep_weights: bool = False,
    count_flops: bool = True,
    hang_timeout_s: float = HANG_TIMEOUT_S,
    max_restarts: int = MAX_RESTARTS,
    start: Start | None = None,
    interface: str = "lo",
) -> Measurement:
    """Train `steps` steps (the case's by default) of `case` by `plan`; everything is kept under `folder`.

    `on_event` hears what happens as it happens (kinds: launched, ready, step, checkpoint, lost, trained, finished).
    `workers_from` changes the number of workers: {8: 1, 16: 2} goes on with one worker after 8 steps and with two again
    after 16, the global batch unchanged.  `link` puts every worker on a host of its own (a network namespace; root)
    with such a link; `start` puts workers elsewhere than into subprocesses here (`ray_executor`), where they need the
    same `folder` and reach each other over the network device `interface`.  UsageError for a plan of another case;
    WorldFailed when the world does not hold; the user's own error comes back with the place of the worker's output.
    """
    sizes = _checked_sizes(case, plan, workers_from)
    load_before = load_average()
    with turn(lambda: _say(on_event, Event(0.0, "waiting_for_turn"))), _hosts(sizes, link) as names:
        first = Job(
            case, plan, _made(folder), case.application.steps if steps is None else steps, plan.compute.devices,
            attempt=0, origin_s=time.monotonic(), parent=os.getpid(), rendezvous="",
            interface=INTERFACE if names else interface, hosts=names, injection=injection,
            import_paths=tuple(import_paths), keep_weights=keep_weights, count_flops=count_flops,
        )  # fmt: skip
        lost = _Session(first, sizes, on_event, start).play(hang_timeout_s, max_restarts)
        ended_s = time.monotonic() - first.origin_s
    shutil.rmtree(folder / CACHES, ignore_errors=True)
    return measurement(case, plan, folder, lost, ended_s, (load_before, load_average()))


def check_batches(plan: Plan, workers: Sequence[int]) -> None:
    """UsageError unless the global batch can be divided among each of these numbers of workers."""
    compute = plan.compute
    for count in workers:
        if count * compute.copies // compute.devices % compute.expert:
            raise UsageError(
                f"{count} workers cannot form groups of {compute.expert} expert ranks.", where="plan.compute"
            )
        piece = max(1, count // (compute.devices // compute.data)) * compute.micro_batch
        if compute.global_batch % piece:
            raise UsageError(
                f"a global batch of {compute.global_batch} sequences cannot be divided among {count} workers "
                f"with micro-batches of {compute.micro_batch}.",
                where="plan.compute",
                hint="Choose a micro-batch that divides the share of every number of workers.",
            )


def check_exchange(plan: Plan, workers_from: Mapping[int, int] | None = None) -> None:
    """Refused unless local updates run so: data parallelism only, checkpoints where workers meet, always as many."""
    compute, every = plan.compute, plan.network.local_steps
    if every == 1:
        return
    if max(compute.tensor, compute.pipeline, compute.expert) > 1 or compute.zero_stage or workers_from:
        raise Refused(
            "local updates run with plain data parallelism and a fixed number of workers only.",
            where="plan.network.local_steps",
            hint="Set zero_stage 0, and tensor, pipeline and expert 1, or local_steps 1.",
        )
    if plan.storage.interval_steps % every:
        raise Refused(
            f"a checkpoint every {plan.storage.interval_steps} steps would fall between two meetings of the workers, "
            f"which are {every} steps apart.",
            where="plan.storage.interval_steps",
            hint="Choose a multiple of local_steps.",
        )


def measurement(
    case: Case, plan: Plan, folder: Path, lost: Sequence[Loss], ended_s: float, load: tuple[float, float]
) -> Measurement:
    """What the logs in `folder` say about a run that took `ended_s` seconds."""
    steps = read_steps(folder)
    samples = read_samples(folder)
    view = view_rank(steps)
    metrics = {key: value for event in read_kind(folder, "metrics") for key, value in _own(event).items()}
    tokens = plan.compute.global_batch * case.application.sequence
    found = [
        *step_metrics(steps, view, tokens, plan.network.local_steps),
        *run_metrics(folder, steps),
        exactly("total_time", "seconds", ended_s),
    ]
    found += use_metrics(case, plan.compute, steps, found[0], ended_s)
    result = Result(
        "real",
        {metric.name: metric for metric in found},
        counts_of(folder, steps, samples, case.application.sequence, plan.compute),
        tuple(f"worker {loss.rank} was lost in step {loss.step}: {loss.how}" for loss in lost),
    )
    losses = tuple(step.loss for step in steps)
    return Measurement(result, steps, losses, samples, tuple(lost), metrics, view, load[0], load[1], folder)


def _checked_sizes(case: Case, plan: Plan, workers_from: Mapping[int, int] | None) -> dict[int, int]:
    """The numbers of workers by the step from which each holds; raises what `run` refuses."""
    plan.check_belongs_to(case)
    check_runnable(plan.compute)
    sizes = dict(sorted({0: plan.compute.devices, **(workers_from or {})}.items()))
    check_batches(plan, list(sizes.values()))
    check_exchange(plan, workers_from)
    return sizes


@dataclass(frozen=True, slots=True)
class _Session:
    """One run: its attempts one after the other, each the job of the `first` with what has changed."""

    first: Job
    sizes: Mapping[int, int]
    on_event: OnEvent | None
    start: Start | None

    def play(self, hang_timeout_s: float, max_restarts: int) -> list[Loss]:
        lost: list[Loss] = []
        attempt = 0
        last = self.first.stop
        stops = [begin for begin in self.sizes if 0 < begin < last] + [last]
        for workers, stop in zip(self.sizes.values(), stops, strict=False):
            while True:
                job = self._job(attempt, workers, stop)
                self._say("launched", attempt=attempt, workers=workers)
                disturbance = self.first.injection if not lost else None
                loss = run_attempt(
                    job, self.on_event, disturbance=disturbance, hang_timeout_s=hang_timeout_s, start=self.start
                )
                attempt += 1
                if loss is None:
                    break
                lost.append(loss)
                self._say("lost", worker=loss.rank, step=loss.step, how=loss.how)
                if len(lost) > max_restarts:
                    raise _given_up(loss, len(lost), self.first.folder)
        self._say("finished", attempts=attempt)
        return lost

    def _job(self, attempt: int, workers: int, stop: int) -> Job:
        return replace(
            self.first,
            stop=stop,
            workers=workers,
            attempt=attempt,
            rendezvous=f"file://{self.first.folder.resolve() / f'rendezvous-{attempt}'}",
            checkpoint_at_stop=stop != self.first.stop,
        )

    def _say(self, kind: str, **data: object) -> None:
        _say(self.on_event, Event(time.monotonic() - self.first.origin_s, kind, dict(data)))


@contextmanager
def _hosts(sizes: Mapping[int, int], link: LinkShape | None) -> Iterator[tuple[str, ...]]:
    """Hosts with such a link, one for each worker; none where all are on this machine's own network."""
    if link is None:
        yield ()
        return
    workers = max(sizes.values())
    with hosts(workers, link) as made:
        yield tuple(made.name(rank) for rank in range(workers))


def _own(event: Event) -> dict[str, float]:
    return {key: value for key, value in event.data.items() if key not in ("rank", "attempt")}


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "workers").mkdir(exist_ok=True)
    except OSError as error:
        raise WorldFailed(
            f"cannot write here: {error.strerror or error}.",
            where=str(folder),
            hint="Choose another place with --runs.",
        ) from error
    return folder


def _say(on_event: OnEvent | None, event: Event) -> None:
    if on_event is not None:
        on_event(event)


def _given_up(loss: Loss, times: int, folder: Path) -> WorldFailed:
    return WorldFailed(
        f"workers were lost {times} times, the last one was worker {loss.rank} in step {loss.step}: {loss.how}.",
        where=str(folder / "workers" / f"{loss.rank}.out"),
        hint="Read the worker's output; memory (the kernel's OOM killer) is the usual reason.",
    )
