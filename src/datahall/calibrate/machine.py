"""This machine as a calibration: rates that the probe measured, times a few multipliers that runs made here taught.

The forecast is the same `virtual.training.forecast` as for a cluster; only where the numbers come from differs.
Nothing here runs or measures anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from datahall.base.errors import Refused
from datahall.base.label import Label
from datahall.base.result import Result
from datahall.base.score import NORMAL_90
from datahall.calibrate.eager_splits import (
    UNPROBED_CUT,
    UNPROBED_SLICE_S,
    SplitCosts,
    eager_habits,
    eager_memory,
    split_costs,
    with_frozen,
)
from datahall.calibrate.local import LocalCalibration, Observation, conformal_quantile, fit_local
from datahall.calibrate.machine_constants import COMPONENTS, prior_log_sd, scaled, sensitivities
from datahall.calibrate.memory_fit import FIRST_PASSES, FIRST_RESERVE_BYTES, MemoryFit, fit_memory
from datahall.case.question import Case
from datahall.compute.adapters import adapters_of
from datahall.compute.counts import ShapeCounts
from datahall.compute.estimate import DeviceRates
from datahall.compute.inventory import trained_tensors
from datahall.compute.memory import MemoryHabits
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.network.plan import NetworkPlan
from datahall.storage.choice import CodecRate
from datahall.virtual.calibration import adapter_numbers, trainable_share
from datahall.virtual.gradient_plan import with_buckets
from datahall.virtual.habits import StackHabits
from datahall.virtual.links import LinkRates
from datahall.virtual.step_time import StepInputs
from datahall.virtual.training import held_bytes

UPDATED_BYTES = 28.0  # what the probe's optimiser moves a parameter: four arrays read, three written, 4 bytes each
PART_LOG_SPREAD = 0.9  # before any run: a part within a factor of 2.5, the step within 1.6
STEP_LOG_SPREAD = 0.47
# The forecast counts fused kernels.  Eager PyTorch on a processor launches and writes many times as many; both figures
# are of fourteen configurations run on a machine of two cores, none of which is ever held out (prove.configurations).
_EAGER_PASSES = 15.0
_EAGER_KERNELS = 20.0
_WORKING_LAYERS = 0.6
_AUTOCAST_PASSES = 1.5  # of activations: the wide ones stay beside those that products take


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of a probe (its JSON) and what runs taught; a `Calibration` once it is placed `at` a configuration."""

    rates: Mapping[str, Any]
    local: LocalCalibration = field(default_factory=LocalCalibration)
    memory: MemoryFit = field(default_factory=MemoryFit)
    position: tuple[float, ...] = ()

    @property
    def label(self) -> Label:
        """Measured by the probe alone, calibrated once runs were fitted."""
        return Label.CALIBRATED if self.local.runs else Label.MEASURED

    def at(self, case: Case, compute: ComputePlan) -> Machine:
        """The same machine with intervals for this configuration."""
        return replace(self, position=position_of(case, compute))

    def inputs(self, case: Case, plan: ComputePlan) -> StepInputs:
        """What a step of `case` under `plan` follows from, multipliers applied."""
        return scaled(self.probed(case, plan), self.local.multipliers, plan)

    def probed(self, case: Case, compute: ComputePlan) -> StepInputs:
        """The inputs as the probe alone gives them."""
        device = DeviceRates(**self._device(compute))
        counts = ShapeCounts.of(case.model)
        costs = self.split_costs(counts, compute, device)
        costs = with_frozen(costs, compute, trainable_share(case))
        device = replace(device, fixed_s=costs.fixed_s, cut_s=costs.cut_s)
        link = self.rates.get("link", {"bytes_per_s": 1e9, "latency_s": 1e-4})
        links = LinkRates(
            link["bytes_per_s"], link["latency_s"], case.site.devices, link["bytes_per_s"], link["latency_s"]
        )
        habits = self._habits(case, compute, float(device.memory_bytes_per_s))
        habits = eager_habits(habits, compute, case.model.layers, link)
        return StepInputs(
            counts,
            case.application.sequence,
            device,
            links,
            with_buckets(habits, case, compute, NetworkPlan().bucket_bytes),
            trainable_share=trainable_share(case),
            memory=eager_memory(self.memory_habits(compute), compute, costs),
            adapters=adapter_numbers(case),
            cores=self._cores(case) / compute.threads,
            slice_s=float(self.rates.get("machine", {}).get("slice_s", UNPROBED_SLICE_S)),
            codecs=self.codecs,
        )

    def split_costs(self, counts: ShapeCounts, compute: ComputePlan, device: DeviceRates) -> SplitCosts:
        """What the split itself costs a model with these counts."""
        rates = (float(device.memory_bytes_per_s), float(device.kernel_s))
        return split_costs(counts, compute, *rates, self.rates.get("cut", UNPROBED_CUT))

    @property
    def codecs(self) -> tuple[CodecRate, ...]:
        """What one core codes of a checkpoint, as the probe measured it; empty where it did not."""
        return tuple(CodecRate(**found) for found in self.rates.get("codecs", ()))

    def peaks(self) -> dict[str, float]:
        """The best product rate of one thread by precision, FLOP/s."""
        best: dict[str, float] = {}
        for setting, found in self.rates["device"].items():
            precision, _, threads = setting.partition("/")
            rate = found.get("best_flops_per_s", found["linear_flops_per_s"]) / int(threads.split()[0])
            best[precision] = max(best.get(precision, 0.0), rate)
        return best

    def memory_habits(self, compute: ComputePlan) -> MemoryHabits:
        """Masters, gradients and moments are fp32 here; autocast keeps narrow copies of weights and activations."""
        narrow = 2.0 if compute.precision == "bf16" else 0.0
        passes = self.memory.activation_passes * (_AUTOCAST_PASSES if narrow else 1.0)
        full = 0.0 if narrow else 4.0  # the memory model takes a separate master copy off an fp32 run
        return MemoryHabits(
            weight_bytes=4.0 + narrow,
            gradient_bytes=4.0,  # DDP reduces gradients where they are (gradient_as_bucket_view)
            optimiser_bytes=8.0 + full,
            logit_bytes=12.0,  # scores, their logarithms and gradients
            fragmentation_share=0.0,
            activation_passes=passes,
            working_layers=_WORKING_LAYERS,
            late_gradients=1.0,
            reserved_bytes=self.memory.reserved_bytes,
        )

    def spread(self, component: str) -> tuple[float, float]:
        """Factors to the ends of the 90 % interval; of a run's total, the wider of its step's and its start's."""
        if component == "total_time":
            names = ("step_time", "startup")
        elif component in {"tokens_per_s", "mfu", "energy", "cost"}:
            names = ("step_time",)
        else:
            names = (component,)
        width = max(self.local.spread(name, self.position, self._fallback(name)) for name in names)
        width = min(width, 3.0)
        return math.exp(-width), math.exp(width)

    def _fallback(self, name: str) -> float:
        return STEP_LOG_SPREAD if name in {"step_time", "peak_memory", "startup"} else PART_LOG_SPREAD

    def _setting(self, compute: ComputePlan) -> Mapping[str, float]:
        """Rates of one worker while the others compute too; a setting not measured: the nearest that was."""
        settings = self.rates["device"]
        most = int(self.rates.get("machine", {}).get("cores", compute.devices)) // compute.threads
        together = max(1, min(compute.devices, most))  # more than the cores take turns, which `cores` says
        for threads, processes in ((compute.threads, together), (compute.threads, 1), (1, 1)):
            found = settings.get(f"{compute.precision}/{threads} threads/{processes} processes")
            if found:
                return found
        raise Refused(
            f"the probe measured no {compute.precision} products on this machine.",
            where="plan.compute.precision",
            hint="Run `datahall probe` again, or choose one of the precisions that it lists.",
        )

    def _cores(self, case: Case) -> float:
        return float(self.rates.get("machine", {}).get("cores", case.site.devices))

    def _device(self, compute: ComputePlan) -> dict[str, float]:
        known = {name: v for name, v in self._setting(compute).items() if name in DeviceRates.__dataclass_fields__}
        # Eager kernels write every intermediate result; autocast reads and writes what it narrows.
        known["element_passes"] = _EAGER_PASSES
        if compute.precision == "bf16":
            known |= {"word_bytes": 4.0, "cast_passes": 1.0}
        # On a processor there is no queue between host and device: a launch is part of the kernel.
        known["kernel_s"] = _EAGER_KERNELS * (known.get("kernel_s", 0.0) + known.pop("launch_s", 0.0))
        return known

    def _habits(self, case: Case, compute: ComputePlan, memory_bytes_per_s: float) -> StackHabits:
        optimiser_bytes_per_s = self._setting(compute)["optimiser_bytes_per_s"]
        noise = self.rates.get("noise", {})
        return StackHabits(
            gradient_bytes=4.0,
            update_bytes=UPDATED_BYTES * memory_bytes_per_s / optimiser_bytes_per_s,
            jitter_share=noise.get("within_run_share", 0.03),
            jitter_seen_s=noise.get("step_s", float("inf")),
            update_s=self._setting(compute).get("update_tensor_s", 0.0) * _tensors(case, compute),
            input_s_per_token=self.rates.get("input", {}).get("seconds_per_token", 0.0),
            startup_s=self.rates.get("startup", {}).get("seconds", 5.0) * self.local.multipliers.get("startup", 1.0),
        )


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A configuration and what the real world measured of it.

    `slower_log` is the logarithm of how much slower than usual the machine was then, `unsure_log_sd` how unsure.
    """

    case: Case
    compute: ComputePlan
    measured: Result
    slower_log: float = 0.0
    unsure_log_sd: float = 0.0


def fit_machine(machine: Machine, runs: Sequence[MeasuredRun], drift_log_sd: float = 0.0) -> Machine:
    """`machine` with multipliers, memory constants and spreads from `runs`; older fits are not kept.

    What the machine's pace did to each run is divided out.  Nobody knows the pace at the next one: `drift_log_sd`, the
    standard deviation of its logarithm, widens every interval of time.
    """
    bare = Machine(machine.rates)
    memory = fit_memory([memory_point(bare, run) for run in runs])
    local = fit_local([observation(bare, run) for run in runs], prior_log_sd)
    starts = [run.measured.metrics["startup"].value for run in runs]
    probed = float(bare.probed(runs[0].case, runs[0].compute).habits.startup_s)
    ratio = math.exp(sum(math.log(start / probed) for start in starts) / len(starts))
    spreads = {
        **{name: math.hypot(spread, NORMAL_90 * drift_log_sd) for name, spread in local.spreads.items()},
        "startup": conformal_quantile([abs(math.log(start / probed / ratio)) for start in starts]),
        "peak_memory": memory.spread,
    }
    multipliers = {**local.multipliers, "startup": ratio}
    return Machine(
        machine.rates,
        replace(local, multipliers=MappingProxyType(multipliers), spreads=MappingProxyType(spreads)),
        memory,
    )


def observation(machine: Machine, run: MeasuredRun) -> Observation:
    """The terms of a run's forecast by the probe alone, and what was measured."""
    pace = math.exp(-run.slower_log)
    measured = {name: pace * run.measured.metrics[name].value for name in COMPONENTS if name in run.measured.metrics}
    probed, numbers = machine.probed(run.case, run.compute), PlanNumbers.of(run.compute)
    return Observation(
        lambda multipliers: sensitivities(probed, numbers, run.compute, multipliers),
        measured,
        position_of(run.case, run.compute),
        run.unsure_log_sd,
    )


def position_of(case: Case, compute: ComputePlan) -> tuple[float, ...]:
    """Where a configuration lies: natural logarithms of width, depth, sequence, micro-batch and workers."""
    varied = (case.model.hidden, case.model.layers, case.application.sequence, compute.micro_batch, compute.data)
    return tuple(math.log(value) for value in varied)


def memory_point(machine: Machine, run: MeasuredRun) -> tuple[float, float, float]:
    """Bytes of states, bytes of activations (one pass), and measured peak; linear near the first guess."""
    first, more = (
        _held(replace(machine, memory=MemoryFit(FIRST_PASSES + passes)), run.case, run.compute) for passes in (0.0, 1.0)
    )
    activations = more - first
    states = first - FIRST_PASSES * activations - FIRST_RESERVE_BYTES
    return states, activations, run.measured.metrics["peak_memory"].value


def _tensors(case: Case, compute: ComputePlan) -> float:
    """Tensors that one worker updates; with ZeRO stage 1 they are one flat buffer."""
    if compute.zero_stage == 1 and compute.data > 1:
        return 1.0
    return trained_tensors(case.model, adapters_of(case.application)) / compute.pipeline


def _held(machine: Machine, case: Case, compute: ComputePlan) -> float:
    return float(held_bytes(machine.probed(case, compute), PlanNumbers.of(compute)).total)
