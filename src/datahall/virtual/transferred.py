"""The calibration for a site that nobody measured here: constants fitted to published runs of other sites.

It answers for accelerators of the kinds that were fitted (GPU, TPU), labelled `transferred`; for anything
else the plain data sheet answers, with its wide interval.  Fitting is `calibrate`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from datahall.base.label import Label
from datahall.base.score import NORMAL_90
from datahall.case.question import Case
from datahall.case.site import Accelerator
from datahall.catalog.accelerators import accelerator as card
from datahall.catalog.calibrations import calibration
from datahall.compute.adapters import adapters_of
from datahall.compute.counts import ShapeCounts
from datahall.compute.plan import ComputePlan
from datahall.virtual.calibration import WHOLE, Calibration, Uncalibrated, adapter_numbers, trainable_share
from datahall.virtual.links import LinkRates
from datahall.virtual.pricing import setting_of, step_inputs
from datahall.virtual.step_time import StepInputs
from datahall.virtual.traits import StackTraits, traits_of

ADAPTERS_LOG_SD = 0.45  # of a step that trains adapters beside a frozen model: no such run is fitted; six were scored
_NEW_ACCELERATOR_WIDER = 1.3  # of which no published run was fitted, under a stack that is not stated either
_NEW_MAKER_WIDER = 2.0  # the same, of a maker without any fitted run
_PARTS_WIDER = 2.0  # times the width of the whole: published runs say little about their parts
_PROCESSOR_SLOWEST = 3.0  # their data sheets' peaks are of units that training seldom fills; nobody's run narrows it
_MEMORY = (0.9, 1.12)


@dataclass(frozen=True, slots=True)
class Transferred:
    """Constants from published runs; `half_width` is half of the 90 % interval of the logarithm of a step's seconds."""

    constants: Mapping[str, float]
    traits: StackTraits
    log_effect: float
    half_width: float

    @property
    def label(self) -> Label:
        """Fitted elsewhere."""
        return Label.TRANSFERRED

    def inputs(self, case: Case, plan: ComputePlan) -> StepInputs:
        """Inputs from the site's figures and the fitted constants."""
        site = case.site
        setting = setting_of(site.accelerator, plan.precision, self.traits, LinkRates.of(site))
        counts = ShapeCounts.of(case.model)
        share, adapters = trainable_share(case), adapter_numbers(case)
        found = step_inputs(counts, case.application.sequence, setting, self.constants, share, adapters)
        return slower(found, math.exp(self.log_effect))

    def spread(self, component: str) -> tuple[float, float]:
        """From left-out published runs; parts of a step are twice as uncertain as the whole."""
        if component == "peak_memory":
            return _MEMORY
        half = self.half_width * (1.0 if component in WHOLE else _PARTS_WIDER)
        return math.exp(-half), math.exp(half)


def default_calibration(case: Case) -> Calibration:
    """The shipped calibration where it holds for the site, else the data sheet alone."""
    accelerator = case.site.accelerator
    if accelerator.kind not in {"gpu", "tpu"} or not accelerator.architecture:
        return Uncalibrated(_PROCESSOR_SLOWEST) if accelerator.kind == "cpu" else Uncalibrated()
    data = _shipped()
    traits = traits_of(case.site.stack, accelerator.kind, architecture=accelerator.architecture)
    known = traits.family in data["validity"]["stacks"] and accelerator.name in data["validity"]["accelerators"]
    names = (f"accelerator:{accelerator.name}", f"stack:{traits.family}", f"release:{traits.family} {traits.release}")
    effect = sum(float(data["effects"].get(name, 0.0)) for name in (names if case.site.stack else names[:1]))
    condition = "familiar" if known and case.site.stack else "unseen"
    half = float(data["half_widths"][f"{condition}_mixture" if case.model.experts else condition])
    half *= _wider(accelerator, data["validity"]["accelerators"])
    if adapters_of(case.application) is not None:
        half = math.hypot(half, NORMAL_90 * ADAPTERS_LOG_SD)
    return Transferred(data["constants"], traits, effect, half)


def stack_note(case: Case) -> str:
    """What the shipped calibration knows nothing of in the stack that a case names; "" for one that was fitted."""
    traits = traits_of(case.site.stack, case.site.accelerator.kind, architecture=case.site.accelerator.architecture)
    if not case.site.stack or traits.family in _shipped()["validity"]["stacks"]:
        return ""
    kin = "XLA" if traits.issue == "xla" else "Megatron" if traits.issue == "fused" else "PyTorch"
    return f"No published run under {case.site.stack} was fitted: it is forecast as {kin} programs usually are."


def _wider(accelerator: Accelerator, fitted: Sequence[str]) -> float:
    if accelerator.name in fitted:
        return 1.0
    makers = {card(name).vendor for name in fitted}
    return _NEW_ACCELERATOR_WIDER if accelerator.vendor in makers else _NEW_MAKER_WIDER


def slower(inputs: StepInputs, factor: float) -> StepInputs:
    """The same step with every second of device, host and link multiplied by `factor`."""
    rates = inputs.rates
    return replace(
        inputs,
        rates=replace(
            rates,
            linear_flops_per_s=rates.linear_flops_per_s / factor,
            wide_flops_per_s=rates.wide_flops_per_s / factor,
            attention_flops_per_s=rates.attention_flops_per_s / factor,
            memory_bytes_per_s=rates.memory_bytes_per_s / factor,
            launch_s=rates.launch_s * factor,
            kernel_s=rates.kernel_s * factor,
            fixed_s=rates.fixed_s * factor,
        ),
        links=inputs.links.scaled(1.0 / factor, factor),
    )


@cache
def _shipped() -> Mapping[str, Any]:
    return calibration("training")
