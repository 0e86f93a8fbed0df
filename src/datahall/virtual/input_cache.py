"""What is read ahead, and whether a cache before the data pays: decided for a plan, with the reason in words.

Costs and waits are `reading`'s.  A cache has to spare waiting, not reading: what is hidden behind arithmetic costs
nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from datahall.base.result import Result
from datahall.base.units import human
from datahall.case.data import UNDECIDED
from datahall.case.question import Case
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.storage.order import MIX
from datahall.storage.plan import StoragePlan
from datahall.storage.reading import ReadCosts
from datahall.virtual.reading import Reading, data_of, read_costs, reading, wait_metrics

_MOST_AHEAD = 64
_WORTH_SHARE = 0.005  # of the run's steps: a cache that saves less is not worth its disk


@dataclass(frozen=True, slots=True)
class CacheVerdict:
    """Whether the cache that the case allows pays: hits of accesses, seconds of the run with it and without.

    `read_*` are seconds of reading by one worker, `stall_*` what of it the loop waits for.
    """

    limit_bytes: float
    policy: str
    accesses: int
    hits: int
    read_without_s: float
    read_with_s: float
    stall_without_s: float
    stall_with_s: float
    pays: bool
    used: bool
    reason: str

    @property
    def hit_share(self) -> float:
        """Hits over accesses."""
        return self.hits / max(1, self.accesses)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "hit_share": self.hit_share}

    def sentence(self) -> str:
        """The verdict as people read it."""
        use = f"It is {'' if self.used else 'not '}used{'' if self.pays == self.used else ', as the case says'}."
        return (
            f"A cache of {human(self.limit_bytes, 'bytes')} ({self.policy}) answers {self.hits:,} of"
            f" {self.accesses:,} reads of a shard ({100 * self.hit_share:.0f} %). Reading takes"
            f" {human(self.read_with_s, 'seconds')} with it and {human(self.read_without_s, 'seconds')} without; the"
            f" loop waits {human(self.stall_with_s, 'seconds')} and {human(self.stall_without_s, 'seconds')} of that."
            f" {'It pays' if self.pays else 'It does not pay'} because {self.reason}. {use}"
        )


def with_reading(
    case: Case, compute: ComputePlan, storage: StoragePlan, work_s: float, costs: ReadCosts | None = None
) -> StoragePlan:
    """`storage` with what is read ahead, and the cache where it pays (or where the case says so)."""
    data = case.application.data
    if data is None:
        return storage
    costs = costs or read_costs(case, compute.data)
    ahead = data.ahead if data.ahead != UNDECIDED else _ahead(compute, work_s, costs)
    plain, wish = replace(storage, ahead=ahead, cache_bytes=0), data.cache
    verdict = cache_verdict(case, compute, plain, work_s, costs)
    if verdict is None or wish.use == "never" or not (verdict.pays or wish.use == "always"):
        return plain
    return replace(plain, cache_bytes=int(wish.limit_bytes), cache_policy=wish.policy)


def cache_verdict(
    case: Case, compute: ComputePlan, storage: StoragePlan, work_s: float, costs: ReadCosts | None = None
) -> CacheVerdict | None:
    """What the cache that the case allows does for a plan that reads by `storage`; None where it allows none."""
    wish = data_of(case).cache
    if not wish.limit_bytes:
        return None
    costs = costs or read_costs(case, compute.data)
    plain = replace(storage, cache_bytes=0)
    cached = replace(storage, cache_bytes=int(wish.limit_bytes), cache_policy=wish.policy)
    without, with_it = (reading(case, compute, how, work_s, 0.0, costs) for how in (plain, cached))
    stalls = without.waited().run_s, with_it.waited().run_s
    saved_s = stalls[0] - stalls[1]
    pays = saved_s > _WORTH_SHARE * case.application.steps * work_s
    return CacheVerdict(
        limit_bytes=wish.limit_bytes,
        policy=wish.policy,
        accesses=with_it.opened,
        hits=with_it.hits,
        read_without_s=without.read_s,
        read_with_s=with_it.read_s,
        stall_without_s=stalls[0],
        stall_with_s=stalls[1],
        pays=pays,
        used=storage.cache_bytes > 0,
        reason=_reason(pays, saved_s, without, with_it, costs),
    )


def result_with_reading(
    result: Result, case: Case, plan: Plan, read: Reading, costs: ReadCosts | None, step_spread: tuple[float, float]
) -> Result:
    """A forecast with what it reads: the waits, shards opened and hits where all were replayed, how and why so."""
    metrics = {**result.metrics, **wait_metrics(read, step_spread, result.metrics["input"].label)}
    opened = {"shards_opened": read.opened, "cache_hits": read.hits} if read.whole else {}
    return replace(
        result,
        metrics=MappingProxyType(metrics),
        counts=MappingProxyType({**result.counts, **opened}),
        notes=(*result.notes, *_notes(case, plan, read, costs)),
    )


def _notes(case: Case, plan: Plan, read: Reading, costs: ReadCosts | None) -> tuple[str, ...]:
    """How the plan reads the case's shards, and the verdict on the cache that the case allows."""
    ahead = f"{plan.storage.ahead} micro-batches ahead" if plan.storage.ahead else "not ahead"
    waited, read_s = (human(seconds, "seconds") for seconds in (read.waited().run_s, read.read_s))
    said = f"Data are read {ahead}: of {read_s} of reading by a worker, the loop waits {waited}."
    verdict = cache_verdict(case, plan.compute, plan.storage, read.work_s, costs)
    return (said,) if verdict is None else (said, verdict.sentence())


def _reason(pays: bool, saved_s: float, without: Reading, with_it: Reading, costs: ReadCosts) -> str:
    slow, fast, fill = (human(seconds, "seconds") for seconds in (costs.slow_s, costs.fast_s, costs.fill_s))
    if pays:
        return f"it spares {human(saved_s, 'seconds')} of waiting: a hit takes {fast}, reading anew {slow}"
    if not with_it.hits:
        return "no shard comes back before it has to leave, and keeping each costs something"
    spared_s = without.read_s - with_it.read_s
    if spared_s <= 0:
        return f"hits do not make up for filling it: a hit takes {fast}, keeping a shard {fill}, reading anew {slow}"
    if saved_s <= 0.5 * spared_s:
        return f"the {human(spared_s, 'seconds')} of reading that it spares are hidden behind the arithmetic anyway"
    return f"it spares {human(saved_s, 'seconds')} of waiting, less than {100 * _WORTH_SHARE:g} % of the run"


def _ahead(compute: ComputePlan, work_s: float, costs: ReadCosts) -> int:
    """As many micro-batches as cover opening the shards that are mixed next."""
    return max(1, min(_MOST_AHEAD, math.ceil(MIX * costs.slow_s * compute.accumulation / max(work_s, 1e-9)) + 1))
