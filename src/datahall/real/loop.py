"""The training loop of one worker: read, compute, exchange, update, now and then commit a checkpoint.

It knows executors and recorders, no splits and no processes.  Random numbers inside a step (dropout) are seeded from
(seed, step, rank), so that a resumed run draws what the undisturbed one drew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from datahall.base.workload import Workload
from datahall.compute.execute import Executor
from datahall.real.checkpoint import Checkpoints
from datahall.real.job import Job
from datahall.real.observe import CollectiveCounter
from datahall.real.record import Recorder
from datahall.real.sampling import step_samples, worker_share


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
    micro_steps = job.micro_steps()
    for step in range(first, job.stop):
        calls, handed, cpu_s = counter.calls, counter.bytes, time.process_time()
        torch.manual_seed(hash((job.case.application.seed, step, executor.data_rank)))
        recorder.mark("input")
        shares = my_share(job, workload, executor, step)
        loss = executor.gradients(_batches(workload, shares, recorder), micro_steps, recorder.mark)
        recorder.mark("optimiser")
        executor.update()
        recorder.mark("idle")
        if checkpoints.due(step + 1):
            recorder.mark("checkpoint")
            checkpoints.commit(step + 1)
            recorder.mark("idle")
        recorder.end_step(
            loss=loss,
            calls=counter.calls - calls,
            bytes=counter.bytes - handed,
            cpu_s=round(time.process_time() - cpu_s, 6),
        )
    checkpoints.finish()


def my_share(job: Job, workload: Workload, executor: Executor, step: int) -> list[Sequence[int]]:
    """The numbers of the samples that this worker reads in `step`, by micro-batch."""
    compute = job.plan.compute
    samples = step_samples(job.case.application.seed, step, compute.global_batch, len(workload.data))
    return worker_share(samples, executor.data_rank, executor.data_world, compute.micro_batch)


def _batches(workload: Workload, shares: list[Sequence[int]], recorder: Recorder) -> Iterator[Any]:
    for index, ids in enumerate(shares):
        if index:
            recorder.mark("input")
        batch = workload.data.batch(ids)
        recorder.loaded(ids)
        yield batch
