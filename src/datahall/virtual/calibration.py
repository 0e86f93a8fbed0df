"""What a forecast needs of a calibration, and how an accelerator's data sheet becomes rates without one.

A calibration turns a case and a plan into `StepInputs` and says how far to trust the answer.  Fitting is `calibrate`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from datahall.base.errors import Incompatible
from datahall.base.label import Label
from datahall.case.question import Case
from datahall.case.site import Accelerator, Site
from datahall.compute.adapters import AdapterNumbers, adapters_of, trained_parameters
from datahall.compute.counts import ShapeCounts
from datahall.compute.estimate import DeviceRates
from datahall.compute.plan import ComputePlan
from datahall.virtual.habits import StackHabits
from datahall.virtual.links import LinkRates
from datahall.virtual.step_time import StepInputs

# Metrics of a whole step or run: one width for all of them, where parts have their own.
WHOLE = ("step_time", "total_time", "tokens_per_s", "mfu", "energy", "cost")
# Best measured matrix product over the dense peak, median of the accelerators for which both are known.
_REACHED_SHARES = {"bf16": 0.80, "fp16": 0.80, "fp8": 0.72, "fp4": 0.55}
_LINK_SHARE = 0.8  # what collectives reach of a link's rate, in published collective timings


class Calibration(Protocol):
    """Constants for one family of sites, with how far they can be trusted."""

    @property
    def label(self) -> Label:
        """Origin of the constants."""
        ...

    def inputs(self, case: Case, plan: ComputePlan) -> StepInputs:
        """What a step of `case` under `plan` follows from."""
        ...

    def spread(self, component: str) -> tuple[float, float]:
        """Factors that turn a forecast of `component` into the ends of its 90 % interval."""
        ...


@dataclass(frozen=True, slots=True)
class Uncalibrated:
    """Data sheets and typical shares only: wide intervals, label `catalogue`.

    `slowest` is the upper end of a step's interval: processors, of which no published run was compared, have another.
    """

    slowest: float = 1.5

    @property
    def label(self) -> Label:
        """Nothing was measured."""
        return Label.CATALOGUE

    def inputs(self, case: Case, plan: ComputePlan) -> StepInputs:
        """Inputs from the site's own figures."""
        rates = typical_rates(case.site.accelerator, plan.precision)
        share = trainable_share(case)
        counts = ShapeCounts.of(case.model)
        adapters = adapter_numbers(case)
        links, sequence = site_links(case.site), case.application.sequence
        return StepInputs(counts, sequence, rates, links, StackHabits(), share, adapters=adapters)

    def spread(self, component: str) -> tuple[float, float]:
        """Half and double for parts; the total of published families left out lay within 0.65 to 1.5."""
        return (0.65, self.slowest) if component in WHOLE else (0.5, max(2.0, self.slowest))


def trainable_share(case: Case) -> float:
    """What is trained, as a share of the model's parameters: all of them, or LoRA's adapters beside them."""
    return trained_parameters(case.model, adapters_of(case.application)) / case.model.parameters()


def adapter_numbers(case: Case) -> AdapterNumbers:
    """The adapters that the case asks for, as numbers."""
    adapters = adapters_of(case.application)
    return adapters.numbers(case.model) if adapters else AdapterNumbers()


def peak_flops_per_s(accelerator: Accelerator, precision: str) -> float:
    """The dense peak at `precision`; Incompatible where the device does not have it."""
    peaks = accelerator.peak_flops_per_s
    if peaks.get(precision):
        return peaks[precision]
    known = ", ".join(sorted(name for name, peak in peaks.items() if peak))
    raise Incompatible(
        f"{accelerator.name} has no {precision}.", where="plan.compute.precision", hint=f"It has: {known}."
    )


def reached_flops_per_s(accelerator: Accelerator, precision: str) -> float:
    """The best rate measured for a matrix product, or the usual share of the peak where nobody measured."""
    peak = peak_flops_per_s(accelerator, precision)
    measured = accelerator.measured_flops_per_s.get(precision)
    return measured or peak * _REACHED_SHARES.get(precision, 0.8)


def typical_rates(accelerator: Accelerator, precision: str) -> DeviceRates:
    """Rates from the data sheet and typical shares."""
    linear = reached_flops_per_s(accelerator, precision)
    has_wide = bool(accelerator.peak_flops_per_s.get("bf16") or accelerator.peak_flops_per_s.get("fp16"))
    wide_name = "bf16" if accelerator.peak_flops_per_s.get("bf16") else "fp16"
    wide = reached_flops_per_s(accelerator, wide_name) if has_wide and precision not in {"fp32", "tf32"} else linear
    on_gpu = accelerator.kind == "gpu"
    return DeviceRates(
        linear_flops_per_s=0.9 * linear,
        wide_flops_per_s=0.9 * wide,
        attention_flops_per_s=0.55 * wide,
        memory_bytes_per_s=0.8 * accelerator.memory_bytes_per_s,
        launch_s=6e-6 if on_gpu else 1e-6,
        kernel_s=3e-6,
        fixed_s=0.01,
        cast_passes=1.0 if precision in {"fp8", "fp4", "int8"} else 0.0,
        word_bytes=4.0 if precision in {"fp32", "tf32"} else 2.0,
    )


def site_links(site: Site) -> LinkRates:
    """The site's links as collectives reach them."""
    return LinkRates.of(site).scaled(_LINK_SHARE, 1.0)
