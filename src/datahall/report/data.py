"""Everything that one report shows, as frozen values; each part may be missing and its section then says so.

`datahall prove` fills it from a run that just ended, `report.folder.load_run` from a folder.  Seconds and bytes
throughout.  No drawing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.base.score import HeldOutScore
from datahall.report.comparison import Comparison


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one worker's time, on the run's clock.  `component` is one of base.step_table.Component, or
    "overlapped" (bytes that move while the worker computes), "agreeing" (on who takes part), or "other".
    """

    worker: int
    component: str
    name: str
    start_s: float
    end_s: float
    step: int = -1

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class ConsideredPlan:
    """A plan that was priced: seconds a step, peak bytes a process, whether it fits, why it lost (or was chosen)."""

    name: str
    step_time_s: float
    memory_bytes: float
    fits: bool = True
    chosen: bool = False
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """The plan as one entry of plans.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LossCurve:
    """Training loss by step.  `resumed_at` are the steps after which a killed run went on."""

    name: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    resumed_at: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Where one process's memory goes: forecast by item (name to bytes) and the measured peak of each worker."""

    items: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    measured_peak_bytes: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of memory.json."""
        return {"items": dict(self.items), "measured_peak_bytes": list(self.measured_peak_bytes)}


@dataclass(frozen=True, slots=True)
class CarryOver:
    """The same model family at a real size on a catalogue site, with what was learnt here."""

    model: str
    site: str
    plan: str
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of carry_over.json."""
        return {
            "model": self.model, "site": self.site, "plan": self.plan,
            "metrics": [metric.to_json() for metric in self.metrics], "notes": list(self.notes),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contender:
    """A plan of the second choice: its part in it, its calibrated forecast and its measurement, seconds a step."""

    role: str
    name: str
    forecast_s: float
    low_s: float
    high_s: float
    measured_s: float

    @property
    def error_share(self) -> float:
        """Forecast against measurement, as a share of the measurement."""
        return self.forecast_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True)
class ChoiceAgain:
    """The plan that the calibrated rates choose (first) and its rivals, run in turn under a seal of their own."""

    contenders: tuple[Contender, ...]
    seal_sha256: str

    @property
    def regret_share(self) -> float:
        """How much slower the choice measured than the best of all that ran; 0 where it was the best."""
        return self.contenders[0].measured_s / min(one.measured_s for one in self.contenders) - 1.0

    @property
    def sentence(self) -> str:
        """What came of choosing again."""
        chosen = self.contenders[0].name
        if not self.regret_share:
            return f"{chosen} was chosen and measured the fastest."
        return f"{chosen} was chosen and measured {100 * self.regret_share:.0f} % slower than the fastest."

    def to_json(self) -> dict[str, Any]:
        """The content of again.json."""
        return {
            "contenders": [asdict(one) for one in self.contenders],
            "regret_share": self.regret_share,
            "seal_sha256": self.seal_sha256,
        }


@dataclass(frozen=True, slots=True)
class ReportData:
    """One run, ready to be shown.

    `results` maps a play ("plan", "baseline") to what was measured; `case` and `plan` are their JSON forms; `spans`
    are the workers' time lines; `sealed_at` is ISO 8601; `missing` names the parts that the folder did not have.
    """

    name: str
    comparison: Comparison | None = None
    forecast: Result | None = None
    results: Mapping[str, Result] = field(default_factory=lambda: MappingProxyType({}))
    case: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    plan: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    spans: tuple[Span, ...] = ()
    considered: tuple[ConsideredPlan, ...] = ()
    losses: tuple[LossCurve, ...] = ()
    memory: Memory | None = None
    heldout: HeldOutScore | None = None
    again: ChoiceAgain | None = None
    carry_over: CarryOver | None = None
    sealed_at: str = ""
    missing: tuple[str, ...] = ()
