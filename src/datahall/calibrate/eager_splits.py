"""What splits cost an eager PyTorch on a processor, beside what follows from counting: copies, DTensor, buffers.

The constants are of a language model in two shapes (hidden 256, 4 layers, sequence 128; hidden 128, 6 layers, sequence
64), fp32 and bf16, on a machine of two cores; `benchmarks/split_forecast.py` judges them on a third.  They scale with
what is stated beside each, and with the machine's own rates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from datahall.compute.counts import ShapeCounts
from datahall.compute.memory import MemoryHabits, held_parameters
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.virtual.habits import StackHabits

# Times that the parameters are copied in each micro-step, in and out of the buffers of gathers and scatters.
_SHARDED_COPIES = {1: 0.0, 2: 12.0, 3: 18.0}
_UNIT_KERNELS = 60.0  # launches for each gathered block
_TENSOR_KERNELS = 1500.0  # launches for each layer that DTensor cuts, forward and backward
_GATHER_PASSES = 1.8  # how many times its formula a gather or scatter takes, with its copies
# Copies of the parameters that are held beside weights, gradients and moments: buckets, flat buffers, gathered blocks.
_DATA_COPIES, _FLAT_COPIES, _SHARDED_COPIES_HELD = 1.0, 2.4, {2: 2.0, 3: 4.0}


@dataclass(frozen=True, slots=True)
class SplitCosts:
    """Seconds of a step and bytes that the split itself takes."""

    fixed_s: float
    buffer_bytes: float


def split_costs(
    counts: ShapeCounts, plan: ComputePlan, memory_bytes_per_s: float, kernel_s: float, precision_bytes: float = 4.0
) -> SplitCosts:
    """The costs of `plan`'s split, all micro-steps of a step together."""
    held = 4.0 * float(sum(held_parameters(counts, PlanNumbers.of(plan))))
    layers = float(counts.layers) / plan.pipeline
    seconds = copies = 0.0
    if plan.zero_stage >= 2 and plan.data > 1:
        copies = _SHARDED_COPIES_HELD[plan.zero_stage]
        seconds = _SHARDED_COPIES[plan.zero_stage] * held / memory_bytes_per_s + layers * _UNIT_KERNELS * kernel_s
    elif plan.zero_stage == 1 and plan.data > 1:
        copies = _FLAT_COPIES
    elif plan.data > 1:
        copies = _DATA_COPIES
    if plan.tensor > 1:
        seconds += layers * _TENSOR_KERNELS * kernel_s
    return SplitCosts(plan.accumulation * seconds, copies * held)


def eager_habits(habits: StackHabits, plan: ComputePlan) -> StackHabits:
    """`habits` of a processor: every core computes, so that nothing is left that could hide a transfer."""
    return replace(
        habits,
        tensor_exposed=1.0,
        shard_exposed=_GATHER_PASSES,
        shard_from_stage=2.0,
        pipeline_exposed=1.0,
        sends_wait=1.0,
        head_exposed=1.0,
        expert_latency=0.0,
        gradient_exposed=_GATHER_PASSES if plan.zero_stage == 1 else 1.0,
        gradient_cover=0.0,
    )


def eager_memory(habits: MemoryHabits, costs: SplitCosts) -> MemoryHabits:
    """`habits` with the split's buffers."""
    return replace(habits, reserved_bytes=habits.reserved_bytes + costs.buffer_bytes)
