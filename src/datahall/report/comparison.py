"""Lay a sealed forecast beside a measurement, component by component, and name what binds and what deviates.

Both sides are `Result`s; which world made them does not matter here.  Errors are shares of the measured value.  A good
total made of component errors that cancel is a failure.  Nothing is forecast or measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from datahall.base.errors import UsageError
from datahall.base.label import Label, weakest
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.base.score import HeldOutScore, heldout_from_json
from datahall.report.bottleneck import Bottleneck, find_bottleneck
from datahall.report.verdict import Verdict, judge

FORMAT_VERSION = 1

# What a library or a file format decides for itself (bucket layout, headers): shown, never compared with ==.
LIBRARY_COUNTS = frozenset({"collective_calls", "wire_bytes", "checkpoint_bytes"})


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """One metric on both sides.

    `low` to `high` is the forecast's 90 % interval, `measured_low` to `measured_high` the noise of the measurement.
    `error_share` is (forecast - measured) / measured, None when nothing was measured.  `in_noise`: the forecast lies
    inside the noise of the measurement, so that no better forecast could be told from this one.  `within_interval`: the
    measurement, less its noise, lies inside the forecast's interval.
    """

    name: str
    unit: str
    forecast: float
    low: float
    high: float
    measured: float
    measured_low: float
    measured_high: float
    error_share: float | None
    in_noise: bool
    within_interval: bool
    label: str

    @property
    def excess(self) -> float:
        """How far the measurement lies above the interval, noise deducted; 0 where it does not.  In `unit`."""
        return max(0.0, self.measured_low - self.high)

    @property
    def shortfall(self) -> float:
        """How far the measurement lies below the interval, noise deducted; 0 where it does not.  In `unit`."""
        return max(0.0, self.low - self.measured_high)


@dataclass(frozen=True, slots=True)
class CountRow:
    """A count on both sides.  `decided_by` is datahall (then it must be equal) or library; `equal` is None: unseen."""

    name: str
    forecast: int | None
    measured: int | None
    decided_by: str
    equal: bool | None


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the measurement was made, and how busy that machine was with others (load average over one minute)."""

    cores: int
    load_before: float
    load_during: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class ParityRecord:
    """Whether the plan learns what one process learns on the same batches: `ParityRecord(**parity.to_json())` of what
    `real.parity` found.  Shares are of the loss and of the root mean square weight.
    """

    steps: int
    workers: int
    loss_share: float
    loss_tolerance_share: float
    weights_share: float
    weights_tolerance_share: float
    weights_max: float
    same_samples: bool
    holds: bool


@dataclass(frozen=True, slots=True)
class DriftRecord:
    """How far the machine's pace moved around its mean while a proof ran, by readings of a reference between runs.

    `low_share` and `high_share` are the slowest and the fastest; `log_sd` is the drift's standard deviation;
    `error_share_at_known_pace` the median error of held-out step times, had the pace of each run been known.  It judges
    nothing: a forecast does not know the pace of a run to come.
    """

    low_share: float
    high_share: float
    log_sd: float
    readings: int
    error_share_at_known_pace: float

    @property
    def sentence(self) -> str:
        """What to say about it."""
        low, high, error = (100 * share for share in (self.low_share, self.high_share, self.error_share_at_known_pace))
        return (
            f"the machine's pace moved by {low:+.0f} to {high:+.0f} % during this proof ({self.readings} readings of a "
            f"reference between runs); with the pace of each run known, the median error of unseen step times would be "
            f"{error:.1f} %, which judges nothing"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Forecast and measurement of one run."""

    components: tuple[ComponentRow, ...]
    counts: tuple[CountRow, ...]
    bottleneck: Bottleneck
    verdict: Verdict
    noise_share: float
    seal_sha256: str = ""
    machine: Machine | None = None
    parity: ParityRecord | None = None
    heldout: HeldOutScore | None = None
    drift: DriftRecord | None = None
    notes: tuple[str, ...] = field(default=())

    def row(self, name: str) -> ComponentRow:
        """The component called `name`; KeyError if it was not on both sides."""
        for row in self.components:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The content of comparison.json."""
        return {
            "format_version": FORMAT_VERSION,
            "seal_sha256": self.seal_sha256,
            "machine": asdict(self.machine) if self.machine else None,
            "noise_share": self.noise_share,
            "components": [asdict(row) for row in self.components],
            "counts": [asdict(row) for row in self.counts],
            "bottleneck": asdict(self.bottleneck),
            "parity": asdict(self.parity) if self.parity else None,
            "heldout": self.heldout.to_json() if self.heldout else None,
            "drift": asdict(self.drift) if self.drift else None,
            "verdict": self.verdict.word,
            "reasons": list(self.verdict.reasons),
            "notes": list(self.notes),
        }


def compare(
    forecast: Result,
    measured: Result,
    noise_share: float,
    *,
    checkpoint_every_steps: int = 0,
    seal_sha256: str = "",
    machine: Machine | None = None,
    parity: ParityRecord | None = None,
    heldout: HeldOutScore | None = None,
    drift: DriftRecord | None = None,
) -> Comparison:
    """The comparison of one sealed forecast with one measured run.

    `noise_share` is the machine's noise floor: each measured value is uncertain by at least this share of itself.
    `checkpoint_every_steps` spreads the checkpoint's stall over steps (0: no checkpoint in the run).
    """
    if noise_share < 0:
        raise UsageError(f"a noise floor of {noise_share} is negative.", hint="Pass a share, such as 0.03.")
    rows = tuple(
        _row(forecast.metrics[name], measured.metrics[name], noise_share)
        for name in forecast.metrics
        if name in measured.metrics
    )
    counts = _counts(forecast.counts, measured.counts)
    bottleneck = find_bottleneck(rows, checkpoint_every_steps)
    verdict = judge(rows, counts, parity, bottleneck.deviating)
    return Comparison(
        rows, counts, bottleneck, verdict, noise_share, seal_sha256, machine, parity, heldout, drift,
        tuple(dict.fromkeys((*forecast.notes, *measured.notes))),
    )  # fmt: skip


def comparison_from_json(data: Mapping[str, Any]) -> Comparison:
    """The comparison that `Comparison.to_json` wrote; UsageError on another format."""
    if data.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"this comparison has format_version {data.get('format_version')!r}, not {FORMAT_VERSION}.",
            hint="Run `datahall prove` again with this version.",
        )
    return Comparison(
        components=tuple(ComponentRow(**row) for row in data["components"]),
        counts=tuple(CountRow(**row) for row in data["counts"]),
        bottleneck=Bottleneck(**data["bottleneck"]),
        verdict=Verdict(data["verdict"], tuple(data["reasons"])),
        noise_share=data["noise_share"],
        seal_sha256=data["seal_sha256"],
        machine=Machine(**data["machine"]) if data["machine"] else None,
        parity=ParityRecord(**data["parity"]) if data["parity"] else None,
        heldout=heldout_from_json(data["heldout"]) if data["heldout"] else None,
        drift=DriftRecord(**data["drift"]) if data.get("drift") else None,
        notes=tuple(data["notes"]),
    )


def _row(forecast: Metric, measured: Metric, noise_share: float) -> ComponentRow:
    noise = noise_share * abs(measured.value)
    measured_low = min(measured.low, measured.value - noise)
    measured_high = max(measured.high, measured.value + noise)
    error = (forecast.value - measured.value) / measured.value if measured.value else None
    if measured.value == forecast.value == 0:
        error = 0.0
    return ComponentRow(
        name=forecast.name,
        unit=forecast.unit,
        forecast=forecast.value,
        low=forecast.low,
        high=forecast.high,
        measured=measured.value,
        measured_low=measured_low,
        measured_high=measured_high,
        error_share=error,
        in_noise=measured_low <= forecast.value <= measured_high,
        within_interval=forecast.low <= measured_high and measured_low <= forecast.high,
        label=str(weakest((forecast.label, Label.MEASURED))),
    )


def _counts(forecast: Mapping[str, int], measured: Mapping[str, int]) -> tuple[CountRow, ...]:
    rows: list[CountRow] = []
    for name in dict.fromkeys((*forecast, *measured)):
        said, seen = forecast.get(name), measured.get(name)
        equal = None if said is None or seen is None else said == seen
        rows.append(CountRow(name, said, seen, "library" if name in LIBRARY_COUNTS else "datahall", equal))
    return tuple(rows)
