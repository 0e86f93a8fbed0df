"""What a worker reads, and in which order: the storage room's pipeline over the workload's samples.

The order follows from the seed and the position alone, for every number of workers, so a resumed run reads on where the
committed one stopped.  Data in memory are one shard; a workload whose data have a `reader` lie in several.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from datahall.base.workload import Workload
from datahall.compute.execute import Executor
from datahall.compute.plan import ComputePlan
from datahall.real.job import Job
from datahall.storage.cache import TierCache
from datahall.storage.eviction import eviction
from datahall.storage.input import Pipeline, SampleReader
from datahall.storage.order import Order

CACHES = "input-cache"  # in a run's folder: the caches of its workers


def order_of(workload: Workload, seed: int) -> Order:
    """The order of the workload's samples."""
    reader = reader_of(workload)
    if reader is None:
        return Order([len(workload.data)], seed)
    return Order(reader.data.sizes, seed, reader.mix, reader.data.content)


def reader_of(workload: Workload) -> SampleReader | None:
    """What reads the shards of the workload's data; None for data in memory."""
    return getattr(workload.data, "reader", None)


def open_input(job: Job, workload: Workload, executor: Executor, order: Order, position: int) -> Pipeline[Any]:
    """This worker's micro-batches from `position` up to the end of the job."""
    size, storage = job.plan.compute.global_batch, job.plan.storage
    reader = reader_of(workload)
    if reader is not None and storage.cache_bytes:
        folder = job.folder / CACHES / str(os.getpid())
        reader.cache = TierCache(folder, eviction(storage.cache_policy, storage.cache_bytes // executor.data_world))
    return Pipeline(
        workload.data.batch,
        order,
        size,
        position=position,
        until=job.stop * size,
        worker=executor.data_rank,
        workers=executor.data_world,
        pieces=job.micro_steps(),
        ahead=storage.ahead,
    )


def micro_batches(order: Order, compute: ComputePlan, position: int, rank: int, world: int) -> list[Sequence[int]]:
    """The numbers of a worker's samples in the global batch at `position`, by micro-batch."""
    mine = order.batch(position, compute.global_batch, rank, world)
    return [mine[at : at + compute.micro_batch] for at in range(0, len(mine), compute.micro_batch)]
