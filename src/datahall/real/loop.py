"""The training loop of one worker: read, compute, exchange, update, now and then commit a checkpoint.

It knows executors and recorders, no splits and no processes.  Random numbers inside a step (dropout) are seeded from
(seed, step, rank), so that a resumed run draws what the undisturbed one drew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from datahall.base.workload import Workload
from datahall.compute.execute import Executor
from datahall.real.checkpoint import load_latest, save_checkpoint
from datahall.real.injection import Throttle
from datahall.real.job import Job
from datahall.real.observe import CollectiveCounter
from datahall.real.record import Recorder
from datahall.real.sampling import step_samples, worker_share


def resume(job: Job, executor: Executor) -> int:
    """Take over the newest committed checkpoint; returns the number of steps that it has behind it."""
    found = load_latest(checkpoint_folder(job.folder))
    if found is None:
        return 0
    tensors, meta = found
    executor.restore(tensors)
    return int(meta["step"])


def train(
    job: Job, workload: Workload, executor: Executor, recorder: Recorder, counter: CollectiveCounter, first: int
) -> None:
    """Run steps `first` to `job.stop` - 1."""
    recorder.step = first
    interval = job.plan.storage.interval_steps
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
        due = interval > 0 and (step + 1) % interval == 0
        if due or (job.checkpoint_at_stop and step + 1 == job.stop):
            recorder.mark("checkpoint")
            commit(job, executor, recorder, step + 1)
            recorder.mark("idle")
        recorder.end_step(
            loss=loss,
            calls=counter.calls - calls,
            bytes=counter.bytes - handed,
            cpu_s=round(time.process_time() - cpu_s, 6),
        )


def my_share(job: Job, workload: Workload, executor: Executor, step: int) -> list[Sequence[int]]:
    """The numbers of the samples that this worker reads in `step`, by micro-batch."""
    compute = job.plan.compute
    samples = step_samples(job.case.application.seed, step, compute.global_batch, len(workload.data))
    return worker_share(samples, executor.data_rank, executor.data_world, compute.micro_batch)


def commit(job: Job, executor: Executor, recorder: Recorder, step: int) -> None:
    """Write a checkpoint of `step` completed steps; everybody waits until it is committed."""
    began = recorder.now()
    count = 0
    if recorder.rank == 0:
        meta = {"seed": job.case.application.seed, "workers": job.workers, "plan": job.plan.to_json()}
        slow = job.injection is not None and job.injection.kind == "slow-disk"
        throttle = Throttle(job.injection.bytes_per_s) if job.injection is not None and slow else None
        folder = checkpoint_folder(job.folder)
        keep = job.plan.storage.keep
        count = save_checkpoint(executor.tensors(), meta, folder, step, keep=keep, throttle=throttle)
    if dist.is_initialized():
        dist.barrier()
    if recorder.rank == 0:
        recorder.event("checkpoint", step=step, bytes=count, seconds=round(recorder.now() - began, 6))


def checkpoint_folder(folder: Path) -> Path:
    """Where the checkpoints of the run in `folder` are."""
    return folder / "checkpoints"


def _batches(workload: Workload, shares: list[Sequence[int]], recorder: Recorder) -> Iterator[Any]:
    for index, ids in enumerate(shares):
        if index:
            recorder.mark("input")
        batch = workload.data.batch(ids)
        recorder.loaded(ids)
        yield batch
