"""What a case's data cost a run: shards opened, hits of a cache, the wait that reading ahead does not hide.

`storage.reading` replays who opens what; data in memory are no concern of this file.  Reading ahead is taken to have a
core of its own: workers that keep every core busy pay for preparing in their arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from datahall.base.errors import UsageError
from datahall.base.label import Label
from datahall.base.metric import Metric
from datahall.case.data import Data
from datahall.case.question import Case
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.storage.eviction import eviction
from datahall.storage.order import Order
from datahall.storage.plan import StoragePlan
from datahall.storage.reading import Opened, ReadCosts, Seconds, shards_opened, through, waits
from datahall.virtual.step_time import StepSeconds

_OPEN_S = 1e-4  # of a file on a local disk, its digest aside
_HANDED_S = 1e-4  # of a micro-batch from the thread that reads ahead to the loop, both of them busy
_MOST_SAMPLES = 400_000  # that are replayed; longer runs are this part again and again
_MOST_WORKERS = 8  # that are replayed; more open the same shards
_LOAD_FACTORS = (0.6, 1.7)  # before any run: what a shard takes, as a share of its forecast
_WARM_UP = 2  # steps that are no part of a usual one


@dataclass(frozen=True, slots=True)
class Waited:
    """Seconds that the loop waits for data: of a mean step, of a usual one, of the run.

    Usual are the steps without the quickest and the slowest quarter, as steps are measured.
    """

    mean_s: float
    usual_s: float
    run_s: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a run reads: shards `opened` by all workers and cache `hits` among them, and what one worker does.

    `load_s` are seconds to make each micro-batch of the part that was replayed, which comes `times` over.
    """

    opened: int
    hits: int
    load_s: Seconds
    work_s: float
    pieces: int
    ahead: int
    times: float
    whole: bool

    @property
    def read_s(self) -> float:
        """Seconds of reading in the run."""
        return self.times * float(self.load_s.sum())

    def waited(self, load_factor: float = 1.0, work_factor: float = 1.0) -> Waited:
        """What of the reading is waited for, with loads and work so many times as long."""
        handed_s = _HANDED_S if self.ahead else 0.0
        load_s = load_factor * self.load_s
        by_piece = waits(load_s, work_factor * self.work_s / self.pieces, self.ahead) + load_factor * handed_s
        by_step = by_piece.reshape(-1, self.pieces).sum(axis=1)
        steady = np.sort(by_step[_WARM_UP:] if len(by_step) > _WARM_UP else by_step)
        aside = len(steady) // 4
        usual_s = float(steady[aside : len(steady) - aside].mean())
        return Waited(float(by_step.mean()), usual_s, self.times * float(by_step.sum()))


def data_of(case: Case) -> Data:
    """The case's data in shards; UsageError where it names none."""
    if case.application.data is None:
        raise UsageError("the case names no data in shards.", where="application.data")
    return case.application.data


def read_costs(case: Case, workers: int = 1) -> ReadCosts:
    """Seconds of a mean shard by the rates of its tier and of the site's disk, which keeps the cache.

    Workers of a node (or all, where the tier is shared) open the same shards at about the same time.
    """
    data, disk = data_of(case), case.site.disk
    stored, prepared = float(np.mean(data.stored_bytes)), float(np.mean(data.prepared_bytes))
    clients = workers if disk.shared or data.read_bytes_per_s else min(workers, case.site.devices_per_node)
    rate = data.read_bytes_per_s or disk.read_bytes_per_s
    return ReadCosts(
        slow_s=(data.latency_s or _OPEN_S) + stored * clients / rate + data.prepare_s,
        fast_s=_OPEN_S + prepared * clients / disk.read_bytes_per_s,
        fill_s=_OPEN_S + prepared * clients / disk.write_bytes_per_s,
    )


def reading(
    case: Case,
    compute: ComputePlan,
    storage: StoragePlan,
    work_s: float,
    piece_s: float,
    costs: ReadCosts | None = None,
) -> Reading:
    """What the run reads and waits where a step works `work_s`; making a micro-batch takes `piece_s` besides shards."""
    steps = case.application.steps
    played = max(1, min(steps, _MOST_SAMPLES // compute.global_batch))
    workers = range(compute.data if compute.data <= _MOST_WORKERS else 1)
    each = [_opened(case, compute, storage, played, worker) for worker in workers]
    costs = costs or read_costs(case, compute.data)
    times = steps / played
    many = times * compute.data / len(workers)
    return Reading(
        opened=round(many * sum(len(shards) for one in each for shards in one.shards)),
        hits=round(many * sum(sum(one.hits) for one in each)),
        load_s=each[0].load_s(costs, storage.cache_bytes > 0, piece_s),
        work_s=work_s,
        pieces=compute.accumulation,
        ahead=storage.ahead,
        times=times,
        whole=played == steps and len(workers) == compute.data,
    )


def read_beside(case: Case, plan: Plan, seconds: StepSeconds, costs: ReadCosts | None = None) -> Reading:
    """What `plan` reads of the case's shards, beside steps that take `seconds` with data in memory."""
    piece_s = float(seconds.input) / plan.compute.accumulation
    return reading(case, plan.compute, plan.storage, float(seconds.total - seconds.input), piece_s, costs)


def wait_metrics(read: Reading, step_spread: tuple[float, float], label: Label) -> dict[str, Metric]:
    """The wait of a usual step and of the run: what loads take beyond the arithmetic, so that both move its ends."""
    (short, long), (less, more) = step_spread, _LOAD_FACTORS
    low, middle, high = read.waited(less, long), read.waited(), read.waited(more, short)
    return {
        "input": Metric("input", "seconds", middle.usual_s, low.usual_s, high.usual_s, label),
        "input_wait": Metric("input_wait", "seconds", middle.run_s, low.run_s, high.run_s, label),
    }


def _opened(case: Case, compute: ComputePlan, storage: StoragePlan, steps: int, worker: int) -> Opened:
    data, application = data_of(case), case.application
    sizes, share = data.sizes(application.sequence), (worker, compute.data, compute.accumulation)
    shards = _shards(sizes, application.seed, compute.global_batch, steps, share)
    limit = storage.cache_bytes // compute.data
    policy = eviction(storage.cache_policy, limit) if storage.cache_bytes else None
    return through(policy, shards, data.prepared_bytes)


@lru_cache(maxsize=16)
def _shards(
    sizes: tuple[int, ...], seed: int, size: int, steps: int, share: tuple[int, int, int]
) -> tuple[tuple[int, ...], ...]:
    worker, workers, pieces = share
    return shards_opened(Order(sizes, seed), size, steps, worker=worker, workers=workers, pieces=pieces)
