"""The training loop of one worker: read, compute, exchange, update, now and then commit a checkpoint.

It knows executors and recorders, no splits and no processes.  Random numbers inside a step (dropout) are seeded from
(seed, step, rank), so that a resumed run draws what the undisturbed one drew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from datahall.base.workload import Workload
from datahall.compute.execute import Executor
from datahall.real.checkpoint import Checkpoints
from datahall.real.input import open_input, reader_of
from datahall.real.job import Job
from datahall.real.observe_collectives import CollectiveCounter
from datahall.real.record import Recorder
from datahall.storage.input import Pipeline


def train(
    job: Job,
    workload: Workload,
    executor: Executor,
    recorder: Recorder,
    counter: CollectiveCounter,
    checkpoints: Checkpoints,
    first: int,
) -> None:
    """Run steps `first` to `job.stop` - 1."""
    recorder.step = first
    counter.stage_group = executor.stage_group
    micro_steps = job.micro_steps()
    pipeline = open_input(job, workload, executor, checkpoints.order, checkpoints.position)
    for step in range(first, job.stop):
        torch.manual_seed(hash((job.case.application.seed, step, executor.data_rank)))
        _received(workload)  # what came before the step does not count
        seen = _step(executor, recorder, counter, checkpoints, pipeline, micro_steps)
        if workload.mixtures:
            seen["received"] = _received(workload)
        due = checkpoints.due(step + 1)
        if due:
            recorder.mark("checkpoint")
        # Before the commit: what a checkpoint has behind it is on record, whoever is killed when.
        recorder.end_step(**seen, group=executor.group_key)
        if due:
            checkpoints.commit(step + 1, pipeline.position)
            recorder.mark("idle")
    recorder.event("loop_ended", step=job.stop - 1)
    pipeline.close()
    if (reader := reader_of(workload)) is not None and executor.logs_samples:
        recorder.event("read", opened=reader.opened, fetched=reader.fetched)
    checkpoints.finish()


def _step(
    executor: Executor,
    recorder: Recorder,
    counter: CollectiveCounter,
    checkpoints: Checkpoints,
    pipeline: Pipeline[Any],
    micro_steps: int,
) -> dict[str, Any]:
    """One optimiser step, its phases marked; its loss, what was handed over in it, and what it was blocked by."""
    calls, handed, cpu_s = counter.calls, counter.bytes, time.process_time()
    blocked_s, stages_s = counter.blocked_s, counter.stages_s
    counter.by_kind.clear()
    recorder.mark("input")
    phases = _Phases(recorder, counter)
    loss = executor.gradients(_batches(pipeline, micro_steps, executor, recorder), micro_steps, phases.mark)
    if checkpoints.copying:
        phases.mark("copying")
        checkpoints.before_update()
    phases.mark("optimiser")
    updating_s = counter.blocked_s
    executor.update()
    recorder.mark("idle")
    return {
        "loss": loss,
        "calls": counter.calls - calls,
        "bytes": counter.bytes - handed,
        "kinds": dict(counter.by_kind),
        "blocked_s": round(phases.blocked_s - blocked_s, 6),
        "stages_s": round(phases.stages_s - stages_s, 6),
        "update_blocked_s": round(counter.blocked_s - updating_s, 6),
        "cpu_s": round(time.process_time() - cpu_s, 6),
    }


def _received(workload: Workload) -> list[list[int]]:
    """Rows that this worker's experts were given since the last call, by mixture."""
    found: list[list[int]] = []
    for name in workload.mixtures:
        mixture: Any = workload.model.get_submodule(name)
        found.append(mixture.received)
        mixture.received = [0] * len(mixture.received)
    return found


class _Phases:
    """Marks phases of one step, and notes how long transfers had blocked the worker when its arithmetic was over."""

    def __init__(self, recorder: Recorder, counter: CollectiveCounter) -> None:
        self.recorder, self.counter = recorder, counter
        self.blocked_s = self.stages_s = -1.0

    def mark(self, phase: str) -> None:
        if phase in ("exchange", "optimiser") and self.blocked_s < 0:
            self.blocked_s, self.stages_s = self.counter.blocked_s, self.counter.stages_s
        self.recorder.mark(phase)


def _batches(pipeline: Pipeline[Any], micro_steps: int, executor: Executor, recorder: Recorder) -> Iterator[Any]:
    for index in range(micro_steps):
        if index:
            recorder.mark("input")
        taken = next(pipeline)
        if executor.logs_samples:
            recorder.loaded(taken.ids)
        yield taken.batch
