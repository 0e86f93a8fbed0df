"""Samples a second of a data-parallel training from a short probe: a cost a step, a cost a sample, and the exchange.

Fitted to real steps with other batches than the forecast's; the interval comes from how far the line misses the size
that was left out, and from the scatter of the probe.  It forecasts that machine, engine and network, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datahall.base.errors import Refused
from datahall.base.formula import formula
from datahall.base.label import Label
from datahall.base.line import fit_line
from datahall.base.metric import Metric

LEAST_SPREAD = 0.10  # share by which runs of one setting differ from minute to minute on a shared machine

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EngineCosts:
    """What a step takes on `engine` with `workers`: seconds a step, for each sample of a worker's share, and for the
    exchange of gradients (0 for one worker).

    `spread_share` is half the width of the 90 % interval of a step; shares from `least` to `most` samples were probed.
    """

    engine: str
    workers: int
    threads: int
    step_s: float
    sample_s: float
    exchange_s: float
    spread_share: float
    least: int
    most: int

    def to_json(self) -> dict[str, Any]:
        """The costs as plain JSON values."""
        return asdict(self)


@formula(
    equation="B / (a + b B / w + c)",
    source="datahall; affine step time as in Goyal et al., arXiv 1706.02677, section 2.2, with the exchange c apart",
    holds="shares B / w inside the probed sizes; exchange not hidden behind the backward pass",
)
def samples_per_s(
    batch: ArrayLike, workers: ArrayLike, step_s: ArrayLike, sample_s: ArrayLike, exchange_s: ArrayLike
) -> Floats:
    """Samples a second of all workers together; seconds a step, a sample of a worker's share, and an exchange."""
    whole, count = np.asarray(batch, np.float64), np.asarray(workers, np.float64)
    seconds = np.asarray(step_s, np.float64) + np.asarray(sample_s, np.float64) * whole / count
    return np.asarray(whole / (seconds + np.asarray(exchange_s, np.float64)), np.float64)


def fit(findings: Mapping[str, Any]) -> EngineCosts:
    """The costs behind what `real.engines.probe` found."""
    by_size: dict[int, list[float]] = {}
    for one in findings["steps"]:
        by_size.setdefault(int(one["size"]), []).append(float(one["step_s"]))
    sizes = np.array(sorted(by_size), np.float64)
    blocks = np.array([by_size[int(size)] for size in sizes])
    medians = np.median(blocks, axis=1)
    fixed_s, sample_s = fit_line(sizes, medians)
    alone_s = float(np.median(findings["exchange_s"])) if findings["workers"] > 1 else 0.0
    exchange_s = min(alone_s, fixed_s)
    return EngineCosts(
        engine=findings["engine"],
        workers=findings["workers"],
        threads=findings["threads"],
        step_s=fixed_s - exchange_s,
        sample_s=sample_s,
        exchange_s=exchange_s,
        spread_share=_spread(sizes, blocks),
        least=int(sizes[0]),
        most=int(sizes[-1]),
    )


def forecast(costs: EngineCosts, batch: int) -> Metric:
    """Samples a second with a global batch of `batch`; Refused when a worker's share lies outside the probed sizes."""
    share = batch / costs.workers
    if not costs.least <= share <= costs.most:
        raise Refused(
            f"{costs.engine} was probed with {costs.least} to {costs.most} samples a worker, not with {share:g}.",
            where="--batch",
            hint="Probe again with this batch.",
        )
    rate = float(samples_per_s(batch, costs.workers, costs.step_s, costs.sample_s, costs.exchange_s))
    spread = costs.spread_share
    return Metric("samples_per_s", "samples_per_s", rate, rate / (1 + spread), rate * (1 + spread), Label.CALIBRATED)


def break_even_batch(one: EngineCosts, more: EngineCosts) -> float:
    """The global batch from which `more` workers are faster than `one`; infinite when they never are, 0 if always."""
    lost_s = more.step_s + more.exchange_s - one.step_s
    gained_s = one.sample_s / one.workers - more.sample_s / more.workers
    if lost_s <= 0:
        return 0.0 if gained_s >= 0 else float("inf")
    return lost_s / gained_s if gained_s > 0 else float("inf")


def pick(costs: Sequence[EngineCosts], batch: int) -> EngineCosts:
    """The engine and number of workers with the most samples a second at `batch`; the first of equals."""
    return max(costs, key=lambda one: forecast(one, batch).value)


def _spread(sizes: Floats, blocks: Floats) -> float:
    """Half the width of the 90 % interval as a share: what the left-out size, the blocks or the floor say."""
    medians = np.median(blocks, axis=1)
    ends = np.array([0, -1])
    intercept, slope = fit_line(sizes[ends], medians[ends])
    missed = np.abs((intercept + slope * sizes[1:-1]) / medians[1:-1] - 1)
    relative = blocks / medians[:, None]
    low, high = np.quantile(relative, [0.05, 0.95], axis=1)
    scatter = float(np.median(high - low)) / 2
    return float(max(LEAST_SPREAD, scatter, *missed))
