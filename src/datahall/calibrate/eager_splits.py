"""What splits cost an eager PyTorch on a processor, beside what follows from counting: copies, DTensor, buffers.

The constants are of a language model in two shapes (hidden 256, 4 layers, sequence 128; hidden 128, 6 layers, sequence
64), fp32 and bf16, on a machine of two cores; `benchmarks/split_forecast.py` judges them on a third.  They scale with
what is stated beside each, and with the machine's own rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from datahall.compute.counts import ShapeCounts
from datahall.compute.handed import block_gathers, scatters
from datahall.compute.memory import MemoryHabits, held_parameters
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.virtual.habits import StackHabits

# Times that the parameters are copied for each gather of them, in and out of its buffers (those of scatters were not
# seen beside them), at the rate of small activations; launches for each block that is gathered, and that is scattered.
_GATHER_COPIES = 30.0
_GATHER_KERNELS, _SCATTER_KERNELS = 35.0, 75.0
UNPROBED_SLICE_S = 0.004  # that Linux leaves a process on a core which others want: a tick of 250 a second
# Seconds that DTensor costs where no probe measured it: of a machine of two cores.
UNPROBED_CUT = {"layer_s": 0.007, "micro_step_s": 0.008, "shared_layer_s": 0.014, "shared_micro_step_s": 0.01}
# How many times its formula a sum of tensor ranks takes with its copies and with waiting for each other at every layer.
_TENSOR_PASSES = 3.0
# On cases/mixture.yaml with two expert ranks: what the fullest has above the mean rank, of rows; and how many times its
# formula an all-to-all takes with its copies and with waiting for each other at every mixture.
_EXPERT_WAIT = 0.36
_EXPERT_PASSES = 3.5
# The same of keys and values that go around a ring of context ranks.
_CONTEXT_PASSES = 3.0
_USUAL_PASSES = {"gather_passes": 1.9, "scatter_passes": 3.4}  # of gloo, where the probe did not measure them
# Copies of the parameters held beside weights, gradients and moments by ZeRO stage: buckets, flat buffers, blocks that
# were gathered.
_HELD_COPIES = {0: 1.8, 1: 3.6, 2: 3.4, 3: 4.0}
# The same at the end of a backward pass, when activations have gone: what a model with small activations needs.  Of a
# perceptron and of two tables (benchmarks/split_forecast.py --model), since the language model never comes there.
_COPIES_AT_THE_END = {0: 0.0, 1: 5.5, 2: 8.0, 3: 10.5}
_GATHERED_SHARE = 0.5  # of those copies with ZeRO stages 2 and 3: of parameters, frozen ones too; the rest of gradients
_WHOLE_BYTES = 8.0  # of a parameter that a pipeline keeps gathered between micro-batches, and of its gradient
_TENSOR_ACTIVATIONS = 1.5  # DTensor keeps what it redistributed beside what it came from


@dataclass(frozen=True, slots=True)
class SplitCosts:
    """Seconds of a step, and of each micro-step of a stage, and bytes that the split itself takes."""

    fixed_s: float
    cut_s: float
    buffer_bytes: float


def split_costs(
    counts: ShapeCounts,
    plan: ComputePlan,
    memory_bytes_per_s: float,
    kernel_s: float,
    cut: Mapping[str, float],
) -> SplitCosts:
    """The costs of `plan`'s split; `cut` is what the probe says of tensor ranks."""
    held = 4.0 * float(sum(held_parameters(counts, PlanNumbers.of(plan))))
    layers, zero = float(counts.layers) / plan.pipeline, plan.zero_stage
    seconds = copies = 0.0
    if plan.copies > 1:
        copies = _HELD_COPIES[zero]
    if plan.copies > 1 and zero >= 2:
        gathers = block_gathers(plan)
        seconds += gathers * _GATHER_COPIES * held / memory_bytes_per_s
        seconds += layers * (gathers * _GATHER_KERNELS + scatters(plan) * _SCATTER_KERNELS) * kernel_s
    shared = "shared_" if plan.sequence_parallel else ""
    ends = 1.0 / min(2, plan.pipeline)  # the table is on the first stage, the head on the last
    cut_s = layers * cut[f"{shared}layer_s"] + ends * cut[f"{shared}micro_step_s"] if plan.tensor > 1 else 0.0
    return SplitCosts(seconds, cut_s, copies * held)


def with_frozen(costs: SplitCosts, plan: ComputePlan, trained_share: float) -> SplitCosts:
    """`costs` where only a share of the parameters is trained: the others have no gradients to copy."""
    gathered = _GATHERED_SHARE if plan.zero_stage >= 2 else 0.0
    return replace(costs, buffer_bytes=costs.buffer_bytes * (gathered + (1.0 - gathered) * trained_share))


def with_small_activations(costs: SplitCosts, plan: ComputePlan, held_bytes: float, activations: float) -> SplitCosts:
    """`costs` with no less room than the end of a backward pass needs, of `held_bytes` of parameters on a worker."""
    if plan.copies == 1:
        return costs
    return replace(
        costs, buffer_bytes=max(costs.buffer_bytes, _COPIES_AT_THE_END[plan.zero_stage] * held_bytes - activations)
    )


def eager_habits(habits: StackHabits, plan: ComputePlan, layers: int, link: Mapping[str, float]) -> StackHabits:
    """`habits` of a processor: arithmetic and transfers share its cores.

    Buckets of gradients hide behind the backward pass (`virtual.gradient_plan` knows which), and make it longer as far
    as the cores move their bytes: all of it, unless `link` says less.  Nothing else hides.  Shards go as fast as `link`
    says of gathers and scatters: a library need not follow a ring's formula (gloo sums the whole to scatter it).
    """
    passes = {name: link.get(name, usual) for name, usual in _USUAL_PASSES.items()} if plan.zero_stage else {}
    return replace(
        habits,
        **passes,
        shards_kept=1.0,
        shard_calls=shard_calls(plan, layers),
        tensor_exposed=_TENSOR_PASSES,
        context_exposed=_CONTEXT_PASSES,
        shard_exposed=1.0,
        shard_from_stage=2.0,
        pipeline_exposed=1.0,
        sends_wait=1.0,
        layer_meetings=_layer_meetings(plan),
        own_latents=1.0,
        own_routers=1.0,
        tied_exposed=1.0,
        expert_latency=0.0,
        expert_updates=1.0,
        expert_exposed=_EXPERT_PASSES,
        expert_wait=_EXPERT_WAIT,
        gradient_exposed=1.0,
        gradient_cover=1.0,  # buckets are full all along the backward pass
        transfer_cores=link.get("cores", 1.0) / plan.threads,
        jitter_share=habits.jitter_share
        if plan.zero_stage < 2 and plan.expert == 1
        else 0.0,  # seen as transfer: in the passes
    )


def _layer_meetings(plan: ComputePlan) -> float:
    """Times a step that a stage's ranks wait for each other at a layer: sums, a ring's rounds, experts, shards."""
    found = 4.0 * (plan.tensor > 1) + 3.0 * (plan.context > 1) + 4.0 * (plan.expert > 1)
    shards = block_gathers(plan) + scatters(plan) if plan.copies > 1 and plan.zero_stage >= 2 else 0
    return found * plan.accumulation + shards


def shard_calls(plan: ComputePlan, layers: int) -> float:
    """Messages for all parameters: one of each block and one of the rest, or one flat buffer."""
    return layers / plan.pipeline + 1.0 if plan.zero_stage >= 2 else 1.0


def eager_memory(habits: MemoryHabits, plan: ComputePlan, costs: SplitCosts) -> MemoryHabits:
    """`habits` with the split's buffers and copies."""
    return replace(
        habits,
        reserved_bytes=max(0.0, habits.reserved_bytes + costs.buffer_bytes),
        pipeline_whole_bytes=_WHOLE_BYTES,
        activation_passes=habits.activation_passes * (_TENSOR_ACTIVATIONS if plan.tensor > 1 else 1.0),
    )
