"""The few constants of a step on this machine that runs may correct, and how a step's components follow from them.

A constant multiplies a time (2: twice as slow).  How far it may be off before any run depends on whether the probe
timed it or guessed it.  How sensitive a component is to each constant is its numerical derivative.  Nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from datahall.calibrate.local import Sensitivity
from datahall.compute.estimate import DeviceRates
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.virtual.habits import StackHabits
from datahall.virtual.step_time import StepInputs, step_time

COMPONENTS = ("compute", "transfer", "waiting", "input", "optimiser")
MEASURED_LOG_SD = 0.25  # the probe timed this very kernel, alone and warm
GUESSED_LOG_SD = 0.6  # how often, how well together: right within a factor of 1.8, two times in three
CONSTANTS = {
    **dict.fromkeys(("product", "attention", "memory"), MEASURED_LOG_SD),
    **dict.fromkeys(
        ("element", "threads", "kernel", "optimiser", "latency", "bandwidth", "jitter", "input"), GUESSED_LOG_SD
    ),
}
_EAGER_SERIAL_SHARE = 0.2  # of a step: on seven such configurations two threads gained 1.6, the probe's kernels 1.9
_EPSILON = 1e-4


def prior_log_sd(name: str) -> float:
    """How far a constant may be off before any run: the standard deviation of its logarithm."""
    return CONSTANTS[name.partition(" ")[0]]


def sensitivities(
    inputs: StepInputs, numbers: PlanNumbers, compute: ComputePlan, multipliers: Mapping[str, float]
) -> dict[str, Sensitivity]:
    """Each component's seconds and its derivatives to the logarithms of the constants (central differences)."""
    count = len(CONSTANTS)
    factors = np.concatenate([1.0 + _EPSILON * np.eye(count), 1.0 - _EPSILON * np.eye(count)], axis=1)
    factors = np.concatenate([factors, np.ones((count, 1))], axis=1)
    now = {**multipliers}
    for row, constant in zip(factors, CONSTANTS, strict=True):
        name = _name(constant, compute.precision)
        now[name] = multipliers.get(name, 1.0) * row
    seconds = step_time(scaled(inputs, now, compute), numbers)
    found: dict[str, Sensitivity] = {}
    for component in COMPONENTS:
        whole = getattr(seconds, component) + (seconds.fixed if component == "compute" else 0.0)
        values = np.broadcast_to(whole, (2 * count + 1,))
        slopes = (values[:count] - values[count : 2 * count]) / (2 * _EPSILON)
        # Waiting is a share of the arithmetic: the share is its constant, and the arithmetic is counted elsewhere.
        steering = {
            _name(constant, compute.precision): float(slope)
            for constant, slope in zip(CONSTANTS, slopes, strict=True)
            if slope > 1e-12 and (component != "waiting" or constant == "jitter")
        }
        found[component] = Sensitivity(float(values[-1]), steering)
    return found


def scaled(inputs: StepInputs, multipliers: Mapping[str, Any], compute: ComputePlan) -> StepInputs:
    """`inputs` with each constant's time multiplied (2: twice as slow); products have one multiplier a precision.

    "threads" is what a step loses where its worker has several: the probe's large kernels divide well among them, a
    step's many small ones and what lies between them do not (Amdahl 1967).
    """
    times = {constant: multipliers.get(_name(constant, compute.precision), 1.0) for constant in CONSTANTS}
    if compute.threads > 1:
        loss = times["threads"] * (1.0 + _EAGER_SERIAL_SHARE * (compute.threads - 1))
        times |= {constant: times[constant] * loss for constant in ("product", "attention", "element")}
    return replace(
        inputs,
        rates=_scaled_rates(inputs.rates, times),
        links=inputs.links.scaled(1.0 / times["bandwidth"], times["latency"]),
        habits=_scaled_habits(inputs.habits, times),
    )


def _scaled_rates(rates: DeviceRates, times: Mapping[str, Any]) -> DeviceRates:
    return replace(
        rates,
        linear_flops_per_s=rates.linear_flops_per_s / times["product"],
        wide_flops_per_s=rates.wide_flops_per_s / times["product"],
        attention_flops_per_s=rates.attention_flops_per_s / times["attention"],
        attention_head_s=rates.attention_head_s * times["attention"],
        attention_head_backward_s=rates.attention_head_backward_s * times["attention"],
        memory_bytes_per_s=rates.memory_bytes_per_s / times["memory"],
        element_passes=rates.element_passes * times["element"] / times["memory"],
        kernel_s=rates.kernel_s * times["kernel"],
        fixed_s=rates.fixed_s * times["memory"],
        cut_s=rates.cut_s * times["kernel"],
    )


def _scaled_habits(habits: StackHabits, times: Mapping[str, Any]) -> StackHabits:
    return replace(
        habits,
        update_bytes=habits.update_bytes * times["optimiser"] / times["memory"],
        update_s=habits.update_s * times["optimiser"],
        jitter_share=habits.jitter_share * times["jitter"],
        input_s_per_token=habits.input_s_per_token * times["input"],
    )


def _name(constant: str, precision: str) -> str:
    return f"{constant} {precision}" if constant in {"product", "element"} else constant
