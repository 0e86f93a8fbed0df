"""The local ledger: how far forecasts were off on this user's hardware, and what the next forecast makes of it.

One JSON line a comparison, in the user's data directory.  A correction is one factor on time, shrunk towards 1 by how
few and how scattered the comparisons are; it tells nothing about which component was off.  Where the comparisons lie
outside the interval that was forecast, that interval was wrong, and the next one is wider.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from datahall.base.errors import WorldFailed
from datahall.base.formula import formula
from datahall.base.label import Label
from datahall.case.question import Case
from datahall.compute.estimate import DeviceRates
from datahall.compute.plan import ComputePlan
from datahall.virtual.calibration import WHOLE, Calibration
from datahall.virtual.step_time import StepInputs

_Z95 = 1.6449
_SCATTER = 0.10  # of log(measured / forecast) between configurations of one stack, until three comparisons say better
_FEW = 5  # comparisons among which none is called an outlier
_OUTLIERS = 0.1  # of the comparisons: what a 90 % interval leaves out
_OTHER_STACK = 0.15  # more, when the comparisons come from another software stack
_RATES = ("linear_flops_per_s", "wide_flops_per_s", "attention_flops_per_s", "memory_bytes_per_s")
_PARTS = ("compute", "transfer", "waiting", "input", "optimiser")
_SECONDS = ("launch_s", "kernel_s", "fixed_s")


@dataclass(frozen=True, slots=True)
class Entry:
    """One comparison: seconds per step as forecast without the ledger, and as measured.

    `forecast_s` is for the case as it was stated, `own_forecast_s` for the same case with `stack` as its stack (0: not
    known, the same): the uncorrected forecast depends on the stack, so that each next case is corrected from its own.
    """

    hardware: str
    stack: str
    case_hash: str
    forecast_s: float
    measured_s: float
    when: str
    log: str = ""
    own_forecast_s: float = 0.0

    def log_ratio(self, *, own: bool) -> float:
        """Natural logarithm of measured over forecast, `own`: over the forecast for this stack."""
        forecast_s = self.own_forecast_s if own and self.own_forecast_s else self.forecast_s
        return math.log(self.measured_s / forecast_s)


@dataclass(frozen=True, slots=True)
class Correction:
    """A factor on time with the factors that end its 90 % interval, from `count` comparisons.

    `missed`: they lie outside the interval that was forecast without them, so that this one may be wider.
    """

    factor: float
    low: float
    high: float
    count: int
    label: Label
    missed: bool = False

    @property
    def remark(self) -> str:
        """What is said of an interval that missed; empty where it held."""
        return "They lay outside the interval forecast without them." if self.missed else ""


def ledger_path() -> Path:
    """Where the ledger is: $DATAHALL_HOME, else the XDG data directory."""
    home = os.environ.get("DATAHALL_HOME")
    if not home:
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
        home = str(Path(data) / "datahall")
    return Path(home) / "ledger.jsonl"


def record(entry: Entry, path: Path | None = None) -> Path:
    """Append `entry`, unless it is there already; WorldFailed where the directory cannot be written."""
    path = path or ledger_path()
    told = replace(entry, when="")
    if entry.log and any(replace(known, when="") == told for known in entries(path)):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(entry), separators=(",", ":")) + "\n")
    except OSError as error:
        hint = "Set DATAHALL_HOME to a directory that you can write."
        raise WorldFailed(f"the ledger cannot be written: {error.strerror}.", where=str(path), hint=hint) from error
    return path


def entries(path: Path | None = None) -> list[Entry]:
    """The comparisons of the ledger, of the same log of the same plan the last (it may have grown since the first).

    A line that does not read (a killed writer) is passed over.
    """
    try:
        lines = (path or ledger_path()).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: dict[object, Entry] = {}
    for number, line in enumerate(lines):
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[(entry.log, entry.hardware, entry.stack, entry.case_hash) if entry.log else number] = entry
    return list(found.values())


@formula(
    equation="mu = sum(r) / (n + s^2/t^2), variance of the next = min(t^2, s^2 + 1 / (n/s^2 + 1/t^2)); "
    "t^2 = t0^2 + max(0, mean(r^2) - (1.645 t0)^2)",
    source="normal mean with known scatter s and prior N(0, t^2); t0 from the forecast's own interval, t by empirical "
    "Bayes: the variance by which the residuals exceed that interval",
    holds="r = log(measured/forecast), independent between configurations; of five and more, a tenth may be outliers",
)
def correction(known: Sequence[Entry], hardware: str, stack: str, prior_log: float) -> Correction | None:
    """What `known` comparisons say about a forecast for `hardware` and `stack`; None where they say nothing.

    `prior_log` is the half-width of the forecast's 90 % interval, as a logarithm.  Comparisons of the same stack make a
    `calibrated` forecast, those of other stacks on the same hardware a `transferred` one.

    While the root mean square of the residuals is inside that interval, the interval is believed: it shrinks the factor
    towards 1, and the next interval is no wider.  Where it is outside, the forecast was less sure than it said: the
    variance that is too much is the forecast's, so that the factor follows the measurements and the interval grows
    until it holds a repeat of them.
    """
    own = [entry for entry in known if entry.hardware == hardware and stack and entry.stack == stack]
    other = [entry for entry in known if entry.hardware == hardware]
    used = own or other
    if not used:
        return None
    ratios = _tempered([entry.log_ratio(own=bool(own)) for entry in used])
    count, scatter = len(ratios), _scatter(ratios)
    surplus = max(0.0, sum(ratio**2 for ratio in ratios) / count - prior_log**2)
    prior = math.hypot(prior_log / _Z95, math.sqrt(surplus))
    mean = sum(ratios) / (count + (scatter / prior) ** 2)
    spread = math.sqrt(scatter**2 + 1.0 / (count / scatter**2 + 1.0 / prior**2) + (0.0 if own else _OTHER_STACK**2))
    spread = min(spread, prior)
    label = Label.CALIBRATED if own else Label.TRANSFERRED
    return Correction(math.exp(mean), math.exp(-_Z95 * spread), math.exp(_Z95 * spread), count, label, surplus > 0)


@dataclass(frozen=True, slots=True)
class LedgerCalibration:
    """A calibration whose every duration is multiplied by a correction, with the correction's interval."""

    under: Calibration
    learnt: Correction

    @property
    def label(self) -> Label:
        """Calibrated or transferred."""
        return self.learnt.label

    def inputs(self, case: Case, plan: ComputePlan) -> StepInputs:
        """The inputs of a machine on which everything takes the correction's factor longer."""
        inputs, factor = self.under.inputs(case, plan), self.learnt.factor
        rates: dict[str, Any] = {name: getattr(inputs.rates, name) / factor for name in _RATES}
        rates |= {name: getattr(inputs.rates, name) * factor for name in _SECONDS}
        habits = replace(inputs.habits, input_s_per_token=inputs.habits.input_s_per_token * factor)
        return replace(
            inputs, rates=_with(inputs.rates, rates), links=inputs.links.scaled(1.0 / factor, factor), habits=habits
        )

    def spread(self, component: str) -> tuple[float, float]:
        """The correction's interval for a whole step, which narrows what was forecast unless that had missed.

        A part is never surer than before, nor than the step.
        """
        (low, high), learnt = self.under.spread(component), self.learnt
        if component in WHOLE:
            return (learnt.low, learnt.high) if learnt.missed else (max(low, learnt.low), min(high, learnt.high))
        if component in _PARTS:
            return min(low, learnt.low), max(high, learnt.high)
        return low, high


def with_ledger(case: Case, calibration: Calibration, path: Path | None = None) -> Calibration:
    """`calibration` as the ledger corrects it for the site of `case`, or as it is where the ledger knows nothing."""
    low, high = calibration.spread("step_time")
    prior = 0.5 * math.log(high / low)
    learnt = correction(entries(path), case.site.accelerator.name, case.site.stack, prior)
    return LedgerCalibration(calibration, learnt) if learnt else calibration


def _with(rates: DeviceRates, changed: dict[str, Any]) -> DeviceRates:
    return replace(rates, **changed)


def _tempered(ratios: list[float]) -> list[float]:
    """`ratios` with outliers drawn in: of five and more, a tenth may not lie further from the median than the others.

    Two scatters further, to be exact: what lies so close is no outlier.
    """
    if len(ratios) < _FEW:
        return ratios
    middle = median(ratios)
    away = sorted(abs(ratio - middle) for ratio in ratios)
    reach = away[-1 - math.ceil(_OUTLIERS * len(ratios))] + 2 * _SCATTER
    return [min(middle + reach, max(middle - reach, ratio)) for ratio in ratios]


def _scatter(ratios: Sequence[float]) -> float:
    """Standard deviation between configurations; fewer than three can only show that it is more than usual."""
    mean = sum(ratios) / len(ratios)
    squares = sum((ratio - mean) ** 2 for ratio in ratios)
    found = math.sqrt((squares + 2 * _SCATTER**2) / (len(ratios) + 1))
    return found if len(ratios) >= 3 else max(_SCATTER, found)
