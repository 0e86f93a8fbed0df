"""A calibration for models that datahall has no formulas for: what a rehearsal measured takes the place of the counts.

The step is the same `virtual.step_time` as for every other model.  Its blocks are made to take what real steps took, a
cost a micro-step and a cost a sample, so that stages, shards, sharing of cores and transfers follow from what is known
of splits.  It holds near the rehearsed sizes, on that machine, and for blocks that are about equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datahall.base.label import Label
from datahall.base.line import fit_line
from datahall.calibrate.eager_splits import SplitCosts, eager_memory, shard_calls, with_small_activations
from datahall.calibrate.machine import Machine
from datahall.case.question import Case
from datahall.compute.adapters import AdapterNumbers
from datahall.compute.anatomy import Anatomy, anatomy_from_json
from datahall.compute.counts import ShapeCounts
from datahall.compute.estimate import DeviceRates
from datahall.compute.handed_tensor import TensorCuts
from datahall.compute.inventory import element_count
from datahall.compute.memory import MemoryHabits
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.virtual.habits import StackHabits
from datahall.virtual.micro_step import micro_step
from datahall.virtual.step_time import StepInputs

_AT_ONCE = 1e30  # per second: work whose time is in the rehearsed costs already
_WORD = 4.0
_LAYER_MATRICES = 7.0  # that tensor ranks cut in a layer of the language model, whose cost `eager_splits` knows
_LAYER_SUMS = 4.0  # of tensor ranks in a layer of the language model, forward and backward
_WEIGHT_PASSES = 3.0  # of a micro-step over the weights: read forward, read backward, their gradients written


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A machine, and a workload that was rehearsed on it; a `virtual.calibration.Calibration`.

    Seconds are of one process beside as many as the plan keeps busy: `micro_step_s` and `sample_s` of gradients,
    `accumulate_s` of adding them to those of the micro-steps before, `update_s` of the optimiser over all parameters,
    `input_s` of reading a sample.  `saved_bytes` are what a sample
    keeps for the backward pass, `largest_bytes` is the largest tensor of a sample, `data_bytes` lie beside the
    parameters.
    """

    machine: Machine
    anatomy: Anatomy
    micro_step_s: float
    sample_s: float
    accumulate_s: float
    update_s: float
    input_s: float
    saved_bytes: float
    largest_bytes: float
    data_bytes: float

    @property
    def label(self) -> Label:
        """The machine's."""
        return self.machine.label

    @property
    def rates(self) -> Mapping[str, Any]:
        """The machine's."""
        return self.machine.rates

    def at(self, case: Case, compute: ComputePlan) -> OwnModel:
        """The same with intervals for this configuration."""
        return replace(self, machine=self.machine.at(case, compute))

    def spread(self, component: str) -> tuple[float, float]:
        """The machine's."""
        return self.machine.spread(component)

    def inputs(self, case: Case, plan: ComputePlan) -> StepInputs:
        """What a step of `plan` follows from; a sample is one token here, whatever it holds."""
        probed = self.machine.probed(case, plan)
        counts = _counts(self.anatomy, self.saved_bytes, plan)
        costs = self._split_costs(counts, plan, probed)
        if plan.tensor == plan.pipeline == 1:
            kept = self.saved_bytes * plan.micro_batch
            costs = with_small_activations(costs, plan, _WORD * self.anatomy.parameters, kept)
        habits = replace(
            probed.habits,
            shard_calls=shard_calls(plan, int(counts.layers)),
            update_s=0.0,
            update_bytes=_AT_ONCE * self.update_s / max(1, self.anatomy.parameters),
            input_s_per_token=self.input_s,
        )
        return replace(
            probed,
            counts=counts,
            sequence=1,
            rates=replace(
                _rates(counts, self._micro_step_s(plan, probed), self.sample_s),
                fixed_s=costs.fixed_s,
                cut_s=costs.cut_s,
            ),
            habits=replace(habits, tensor_exposed=habits.tensor_exposed * self._calls_share(counts, plan)),
            trainable_share=1.0,
            memory=eager_memory(self._memory(plan), plan, costs),
            adapters=AdapterNumbers(),
        )

    def _split_costs(self, counts: ShapeCounts, plan: ComputePlan, probed: StepInputs) -> SplitCosts:
        known = counts if plan.tensor == 1 else replace(counts, layers=self.anatomy.cuts.modules / _LAYER_MATRICES)
        found = self.machine.split_costs(known, plan, probed.rates)
        if plan.tensor == 1:
            return found
        held = self.machine.split_costs(counts, plan, probed.rates)
        return replace(found, buffer_bytes=held.buffer_bytes)

    def _micro_step_s(self, plan: ComputePlan, probed: StepInputs) -> float:
        """What a micro-step takes however few its samples; tensor ranks share what passes over the weights."""
        weights = _WORD * self.anatomy.parameters
        passed_s = min(self.micro_step_s, _WEIGHT_PASSES * weights / float(probed.rates.memory_bytes_per_s))
        added_s = self.accumulate_s * (1.0 - 1.0 / plan.accumulation)
        if plan.zero_stage >= 2:
            added_s /= plan.shards
        held = self.anatomy.on_tensor_rank(plan.tensor) / max(1, self.anatomy.parameters)
        return self.micro_step_s - passed_s + held * (passed_s + added_s)

    def _calls_share(self, counts: ShapeCounts, plan: ComputePlan) -> float:
        """How often tensor ranks sum in a micro-step, as a share of what the language model's layers would."""
        return _sums(self.anatomy.cuts)[0] / (_LAYER_SUMS * counts.layers) if plan.tensor > 1 else 1.0

    def _memory(self, plan: ComputePlan) -> MemoryHabits:
        usual = self.machine.memory_habits(plan)
        full = 0.0 if plan.precision == "bf16" else 4.0  # the memory model takes a separate master copy off an fp32 run
        return replace(
            usual,
            optimiser_bytes=self.anatomy.state_bytes + full,
            activation_passes=1.0,
            working_layers=0.0,
            late_gradients=0.0,
            reserved_bytes=usual.reserved_bytes + self.data_bytes + 2.0 * self.largest_bytes * plan.micro_batch,
        )


def own_model(machine: Machine, found: Mapping[str, Any]) -> OwnModel:
    """The calibration behind what `real.rehearsal` found."""
    anatomy = anatomy_from_json(found["anatomy"])
    micro_step_s, sample_s = _affine([(size, seconds) for size, seconds in found["steps"]])
    saved = [(size, kept) for size, kept, _ in found["saved"]]
    size, _, largest = found["saved"][-1]
    return OwnModel(
        machine,
        anatomy,
        micro_step_s,
        sample_s,
        float(found["accumulate_s"]),
        float(found["update_s"]),
        float(found["input_s"]),
        max(kept / size for size, kept in saved),
        largest / size,
        max(0.0, float(found["built_bytes"]) - _WORD * anatomy.parameters),
    )


def _affine(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Cost of a micro-step and of a sample; all of one size: of samples alone."""
    if len(points) == 1:
        return 0.0, points[0][1] / points[0][0]
    return fit_line([size for size, _ in points], [seconds for _, seconds in points])


def _sums(cuts: TensorCuts) -> tuple[float, int]:
    """Sums of tensor ranks in a micro-step, and elements of a sample in each; a gather is half a sum."""
    summed = (*cuts.forward, *cuts.tables, *cuts.backward)
    calls = len(summed) + len(cuts.gathered) / 2
    return calls, round((sum(summed) + sum(cuts.gathered) / 2) / max(1.0, calls))


def _counts(anatomy: Anatomy, saved_bytes: float, plan: ComputePlan) -> ShapeCounts:
    """The model as layers of one matrix each, with the workload's numbers of parameters and of kept bytes.

    The width is what `plan`'s ranks hand to one another: sums of tensor ranks, or a boundary between stages.
    """
    blocks = anatomy.inventory.blocks
    layers = max(1, len(blocks))
    outside = sum(element_count(shape) for shape in anatomy.inventory.root) if blocks else 0
    hidden = max(1, _sums(anatomy.cuts)[1] if plan.tensor > 1 else anatomy.boundary)
    nothing = {name: 0 for name in ShapeCounts.__dataclass_fields__}
    return ShapeCounts(
        **nothing
        | {
            "layers": layers,
            "hidden": hidden,
            "heads": 1,
            "mlp_matrices": 1,
            "dense_weights": max(1.0, (anatomy.parameters - outside) / layers),
            "dense_width": saved_bytes / _WORD / layers - 4.0 * hidden,
            "embedding_parameters": outside,
            "tied_weights": sum(element_count(shape) for shape in anatomy.common) * plan.tensor,
        }
    )


def _rates(counts: ShapeCounts, micro_step_s: float, sample_s: float) -> DeviceRates:
    """Rates at which one process takes the rehearsed time: kernels for the micro-step, products for the sample."""
    bare = DeviceRates(_AT_ONCE, _AT_ONCE, _AT_ONCE, _AT_ONCE, word_bytes=_WORD)

    def units(rates: DeviceRates) -> float:
        return float(micro_step(counts, 1, rates, StackHabits(), PlanNumbers(), AdapterNumbers()).device)

    kernels, flops = units(replace(bare, kernel_s=1.0)), units(replace(bare, linear_flops_per_s=1.0))
    return replace(bare, kernel_s=micro_step_s / kernels, linear_flops_per_s=flops / max(sample_s, 1e-12))
