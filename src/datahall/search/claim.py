"""Against which baseline would "so much less training time, so much more inference" hold?  Percentages without a
baseline say nothing, so that this names baselines: other accelerators, and the same ones used less well.

Training times are two forecasts, each with its own best plan; their intervals are joined as if they erred apart, which
is wide.  Inference is a modest forecast of tokens served (`served`), beside the data sheets' ratios of memory rate and
peak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datahall.base.errors import DatahallError, UnknownName, UsageError
from datahall.base.metric import Metric
from datahall.calibrate.nearby import Nearby, nearby
from datahall.calibrate.shipped import shipped_runs
from datahall.case.named_site import site_from_text
from datahall.case.question import Case, Goal
from datahall.case.site import Accelerator, Site
from datahall.compute.counts import ShapeCounts
from datahall.compute.mfu import BITS_OF, step_mfu
from datahall.search.rank import search
from datahall.search.served import Served, served
from datahall.search.why import explain
from datahall.virtual.serving_constants import shipped
from datahall.virtual.transferred import default_calibration

HOLDS, OPEN, FAILS = "holds", "open", "fails"


@dataclass(frozen=True, slots=True)
class Ratio:
    """One forecast over another, with its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """One baseline: how much less time the case takes than it (share, with 90 % interval), and what of inference.

    `served` is tokens/s of the case's devices over those of the baseline's; None where one of them cannot hold a copy.
    """

    site: str
    total_s: float
    saved: float
    saved_low: float
    saved_high: float
    served: Ratio | None
    by_memory: float  # the case's memory rate over the baseline's
    by_arithmetic: float  # peak over peak

    def training(self, claimed: float) -> str:
        """Whether "at least `claimed` less time" holds against this baseline."""
        return HOLDS if self.saved_low >= claimed else FAILS if self.saved_high < claimed else OPEN

    def inference(self, claimed: float) -> str:
        """Whether "at least `claimed` more tokens" holds against this baseline."""
        if self.served is None:
            return OPEN
        return HOLDS if self.served.low - 1.0 >= claimed else FAILS if self.served.high - 1.0 < claimed else OPEN


@dataclass(frozen=True, slots=True)
class Claim:
    """The case's run and MFU, baselines from slow to fast, and what others measured on the same accelerator.

    `measured` are the published runs nearest to the case, each beside a forecast that never saw it.
    """

    total: Metric
    mfu: Metric
    precision: str
    baselines: Sequence[Baseline]
    published_mfu: tuple[float, float, float] | None  # 10th, 50th, 90th percentile
    published_runs: int
    unable: Sequence[str]  # accelerators of which as many devices cannot hold the case
    served: Served | None
    measured: Sequence[Nearby]

    def total_at(self, near: Nearby) -> float | None:
        """Seconds of the case's run at the MFU of a published one; None where its MFU is of another peak."""
        same = BITS_OF[near.precision] == BITS_OF[self.precision]
        return self.total.value * self.mfu.value / near.mfu if same else None

    def mfu_of_baseline(self, claimed: float) -> tuple[float, float, float]:
        """MFU of the same devices, used less well, that `claimed` less time is measured against, with its interval."""
        kept = 1.0 - claimed
        return kept * self.mfu.value, kept * self.mfu.low, kept * self.mfu.high


def claim(case: Case, names: Sequence[str]) -> Claim:
    """The baselines of `case`, planned for time: as many devices of each accelerator in `names` that can hold it."""
    case = replace(case, goal=Goal())
    ranking = search(case, default_calibration(case), only_best=True)
    own, precision = explain(ranking), ranking.compute(0).precision
    total = own.metrics["total_time"]
    found: list[Baseline] = []
    unable: list[str] = []
    for name in names:
        other = _run_time(case, name)
        if other is None:
            unable.append(name)
        else:
            found.append(_baseline(case, name, total, *other))
    if not found:
        raise UsageError("none of the baselines can hold this case.", hint="Name others with --against.")
    shares, count = _published(case.site.accelerator)
    by_time = sorted(found, key=lambda baseline: -baseline.total_s)
    site = case.site
    near = nearby(case.model, site.accelerator.name, site.devices, case.application.sequence, precision)
    answered = served(case.model, site)
    return Claim(total, own.metrics["mfu"], precision, by_time, shares, count, unable, answered, near)


def _run_time(case: Case, name: str) -> tuple[Metric, Site] | None:
    """Forecast of the run on as many devices of another kind, in a precision that they have; None if they cannot.

    UnknownName for a kind that the catalogue does not have.
    """
    application = replace(case.application, precision="")
    try:
        site = site_from_text(f"{case.site.devices}x{name}")[0]
        other = replace(case, site=site, application=application)
        return explain(search(other, default_calibration(other), only_best=True)).metrics["total_time"], site
    except UnknownName:
        raise
    except DatahallError:
        return None


def _baseline(case: Case, name: str, total: Metric, other: Metric, site: Site) -> Baseline:
    own, card = case.site.accelerator, site.accelerator
    ratio = total.value / other.value
    half = math.hypot(math.log(total.high / total.low) / 2.0, math.log(other.high / other.low) / 2.0)
    memory, arithmetic = own.memory_bytes_per_s / card.memory_bytes_per_s, _peak(own) / _peak(card)
    low, high = 1.0 - ratio * math.exp(half), 1.0 - ratio * math.exp(-half)
    answered = _served_ratio(served(case.model, case.site), served(case.model, site))
    return Baseline(f"{case.site.devices} x {name}", other.value, 1.0 - ratio, low, high, answered, memory, arithmetic)


def _served_ratio(own: Served | None, other: Served | None) -> Ratio | None:
    """Tokens/s over tokens/s."""
    if own is None or other is None:
        return None
    ratio, factor = own.tokens_per_s / other.tokens_per_s, shipped().ratio_factor
    return Ratio(ratio, ratio / factor, ratio * factor)


def _peak(card: Accelerator) -> float:
    peaks = card.peak_flops_per_s
    return max(peaks.get("bf16", 0.0), peaks.get("fp16", 0.0)) or peaks.get("fp32", math.nan)


def _published(card: Accelerator) -> tuple[tuple[float, float, float] | None, int]:
    """Percentiles of the MFU of the shipped published runs on an accelerator, in 16 bits."""
    shares: list[float] = []
    for run in shipped_runs()[0]:
        plan = run.variants[0].plan
        if run.accelerator.name != card.name or plan.precision not in {"bf16", "fp16"} or run.quality != "A":
            continue
        peak = run.accelerator.peak_flops_per_s[plan.precision] * run.devices
        shares.append(step_mfu(ShapeCounts.of(run.shape), run.sequence, run.global_batch, run.step_s, peak))
    if not shares:
        return None, 0
    low, middle, high = np.quantile(shares, (0.1, 0.5, 0.9)).tolist()
    return (low, middle, high), len(shares)
