"""What one training step takes: the one place that combines the rooms' estimates with overlap and waiting.

Every argument is plain numbers or arrays: one plan is explained and half a million are ranked by the same lines.
A step is `accumulation` micro-steps on the slowest pipeline stage, the pipeline's fill and drain, the exchange of
gradients that arithmetic does not cover, and the update.  Whole runs (checkpoints, failures, cost) are `training`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from datahall.base.formula import formula
from datahall.compute.adapters import AdapterNumbers
from datahall.compute.counts import ShapeCounts
from datahall.compute.estimate import DeviceRates, issued_s
from datahall.compute.memory import MemoryHabits, held_parameters, sharded
from datahall.compute.numbers import PlanNumbers
from datahall.storage.choice import CodecRate
from datahall.virtual.exchange import Exchange, exchange_s
from datahall.virtual.habits import StackHabits
from datahall.virtual.links import LinkRates
from datahall.virtual.micro_step import MicroStep, micro_step


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Everything that a step's time follows from, besides the plan."""

    counts: ShapeCounts
    sequence: Any
    rates: DeviceRates
    links: LinkRates
    habits: StackHabits
    trainable_share: Any = 1.0  # of the parameters that get gradients (1: all; LoRA: a percent)
    memory: MemoryHabits = field(default_factory=MemoryHabits)
    adapters: AdapterNumbers = field(default_factory=AdapterNumbers)
    gradient_s: Any = float("nan")  # of an exchange that is not plain, each step (`gradient_plan`); not a number: plain
    cores: Any = float("inf")  # that the plan's workers share; infinite where each has a device of its own
    slice_s: Any = 0.0  # that a worker keeps a core which others want; 0: they share it evenly
    codecs: tuple[CodecRate, ...] = ()  # of checkpoints, as measured on a core here; none: the catalogue's


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of one optimiser step by component, and what the components are made of.

    The total is compute + transfer + waiting + input + optimiser + fixed.  The parts of `compute` are device seconds
    before the host's launches; the parts of `transfer` are exposed seconds.
    """

    compute: Any
    transfer: Any
    waiting: Any  # pipeline fill and drain, and the slowest of many devices, and unequal workers
    input: Any
    optimiser: Any
    fixed: Any
    linear: Any
    attention: Any
    elementwise: Any
    experts: Any
    embedding: Any
    logits: Any
    recompute: Any
    launch: Any  # what the host adds: launches, and cut tensors
    beside: Any  # what transfers that run beside arithmetic take from its cores
    tensor_exchange: Any
    context_exchange: Any
    expert_exchange: Any
    shard_exchange: Any
    gradient_exchange: Any
    pipeline_exchange: Any

    @property
    def total(self) -> Any:
        """Seconds of the step."""
        return self.compute + self.transfer + self.waiting + self.input + self.optimiser + self.fixed


@formula(
    equation="idle share of a step = (p-1)/(v m + p-1); v = 3 (p-1)/(p-1 + p-m) for ZB-H1 with m < p",
    source="Narayanan et al. 2021, Efficient training on GPU clusters (arXiv 2104.04473), section 2.2",
    holds="1F1B or GPipe (v = 1), interleaved 1F1B with v chunks (m a multiple of p), zero-bubble ZB-H1 (v = 3, with "
    "k chunks 3 k); equal stages",
)
def bubble_share(stages: Any, micro_batches: Any, virtual_stages: Any = 1) -> Any:
    """Share of a step that a pipeline stage stands still."""
    return (stages - 1) / (virtual_stages * micro_batches + stages - 1)


@formula(
    equation="T = m t n/c + (q-1) t with q = max(1, p c/n); idle share of T: (p-1)/(m+p-1) (1 + (q-1)/(p-1)) / 2",
    source="our own: n workers take turns on c cores, so that a stage's bubble is another stage's time",
    holds="n > c; 1F1B and GPipe, stages of t equal seconds a micro-batch, cores shared evenly (a test plays it)",
)
def crowded_pipeline(stages: Any, micro_batches: Any, crowd: Any, bubble: Any) -> tuple[Any, Any]:
    """A step in units of one stage's micro-batch: its length, and what of it a stage stands still.

    `crowd` is workers for each core, at least one; `bubble` scales fill and drain (1 for 1F1B, less where chunks
    interleave).
    """
    at_once = np.maximum(1.0, stages / crowd)
    whole = micro_batches * crowd + bubble * (at_once - 1.0)
    behind = np.maximum(stages - 1.0, 1.0)
    share = bubble * (stages - 1.0) / (micro_batches + bubble * (stages - 1.0)) * (1.0 + (at_once - 1.0) / behind) / 2.0
    return whole, np.where(np.asarray(crowd) > 1.0, share * whole, bubble * (stages - 1.0))


@formula(
    equation="w = q/2 min(1, n t / W)",
    source="our own: of two workers that want a core, the one that has it first is at its meeting as long before the "
    "other as that one waited for the core, so half of what shared cores cost is spent at meetings",
    holds="q seconds of waiting for a core beside W of arithmetic that meets others n times, cores kept for t each; "
    "from cores shared evenly (t = 0) to one after another (t > W / n); tests play both",
)
def waited_at_meetings_s(queued_s: Any, arithmetic_s: Any, meetings: Any, slice_s: Any) -> Any:
    """Of the seconds that sharing cores costs a worker, those in which it has nothing to do but wait for others."""
    return 0.5 * queued_s * np.minimum(1.0, meetings * slice_s / np.maximum(arithmetic_s, 1e-12))


def step_time(inputs: StepInputs, plan: PlanNumbers) -> StepSeconds:
    """Seconds of one optimiser step of `plan`; element i of an array answer is the scalar answer."""
    one = micro_step(inputs.counts, inputs.sequence, inputs.rates, inputs.habits, plan, inputs.adapters)
    device = one.device
    issued = issued_s(device, one.host)
    head = issued - issued_s(device - one.logits, one.host)  # of the last stage, which nobody fills or drains behind
    cover = _cover(one, issued - device, plan)
    trained, word = inputs.trainable_share, inputs.rates.word_bytes
    sent = exchange_s(inputs.counts, inputs.sequence, inputs.links, inputs.habits, word, plan, cover, trained)
    taken = taken_s(sent.hidden, inputs.habits)
    issued = issued + inputs.rates.cut_s
    launched, issued = issued - device, issued + taken
    steady = issued + sent.per_micro_step
    steps = plan.accumulation
    jitter = np.where(np.asarray(plan.data) > 1, jitter_s(steps * issued, inputs.habits), 0.0)
    waits = inputs.habits.sends_wait * sent.pipeline  # the rest is between the ranks of a stage
    crowd = np.maximum(1.0, plan.devices / np.asarray(inputs.cores))
    whole, idle = crowded_pipeline(plan.pipeline, steps, crowd, plan.fill_share)
    stretch = (whole - idle) / steps
    waiting = idle * (steady - np.where(crowd > 1.0, 0.0, head)) + jitter * stretch
    waiting = waiting + inputs.habits.straggler_share * np.log2(plan.devices) * steps * steady
    inside, between = _at_meetings(inputs, plan, steps * issued, steps * issued * (stretch - 1.0))
    gradient, beside = _once_a_step(inputs, sent, cover, plan, crowd)
    return StepSeconds(
        compute=steps * issued * stretch + beside - inside - between,
        transfer=steps * stretch * (sent.per_micro_step - waits) + gradient + inside,
        waiting=waiting + steps * stretch * waits + between,
        input=inputs.habits.input_s_per_token * steps * plan.micro_batch * inputs.sequence,
        optimiser=_update_s(inputs, plan) * crowd,
        fixed=inputs.rates.fixed_s * crowd + 0.0 * steps,
        linear=steps * one.linear,
        attention=steps * one.attention,
        elementwise=steps * one.elementwise,
        experts=steps * one.experts,
        embedding=steps * one.embedding,
        logits=steps * one.logits,
        recompute=steps * one.recompute,
        launch=steps * launched,
        beside=beside + steps * taken,
        tensor_exchange=steps * sent.tensor,
        context_exchange=steps * sent.context,
        expert_exchange=steps * sent.expert,
        shard_exchange=steps * sent.shard,
        gradient_exchange=gradient,
        pipeline_exchange=steps * sent.pipeline,
    )


def _at_meetings(inputs: StepInputs, plan: PlanNumbers, arithmetic_s: Any, queued_s: Any) -> tuple[Any, Any]:
    """What of the waiting for cores is spent on the ranks of one's own stage, and on other stages."""
    layers = inputs.counts.layers / plan.pipeline
    inside = waited_at_meetings_s(queued_s, arithmetic_s, inputs.habits.layer_meetings * layers, inputs.slice_s)
    passes = 1.5 * plan.virtual_stages * plan.accumulation  # as many as the longer ones, the backward passes, would be
    between = waited_at_meetings_s(queued_s - inside, arithmetic_s, passes, inputs.slice_s)
    return inside, np.where(np.asarray(plan.pipeline) > 1, between, 0.0)


@formula(
    equation="w = j T sqrt(T0 / T) for T > T0, else j T",
    source="datahall; independent interruptions: the variance of their sum grows with the time that it is taken over",
    holds="share j seen at steps of T0; fitted exponent of measured waiting over 20 steps of 20 to 160 ms: 0.53",
)
def jitter_s(arithmetic_s: Any, habits: StackHabits) -> Any:
    """Seconds that data-parallel workers wait for one another in a step with this much arithmetic each."""
    evened = np.minimum(1.0, np.sqrt(habits.jitter_seen_s / np.maximum(arithmetic_s, 1e-12)))
    return habits.jitter_share * arithmetic_s * evened


@formula(
    equation="s = h min(x, max(0, (n (1 + x) - c) / n))",
    source="our own: n workers' arithmetic on n and their transfers on n x of c cores, evenly shared; what cores lack "
    "makes arithmetic longer",
    holds="transfers by the processor (loopback, shared memory); x = 0 where a device of their own moves the bytes",
)
def slowed_s(hidden_s: Any, workers: Any, cores: Any, transfer_cores: Any) -> Any:
    """Seconds by which arithmetic gets longer while this many seconds of transfers are hidden behind it."""
    lacking = (workers * (1.0 + transfer_cores) - cores) / workers
    return hidden_s * np.minimum(transfer_cores, np.maximum(0.0, lacking))


@formula(
    equation="s = u h",
    source="our own; u is fitted near the 20 of 132 processors of an H800 that DeepSeek-V3 gives to its transfers "
    "(arXiv 2412.19437, section 3.2.2); measured beside transfers, arithmetic is 18.9 % slower (arXiv 2507.03114)",
    holds="transfers by kernels of the device itself (NCCL, RCCL); u = 0 where other engines move the bytes (TPU)",
)
def taken_s(hidden_s: Any, habits: StackHabits) -> Any:
    """Seconds by which a device's arithmetic gets longer while this many seconds of transfers are hidden behind it."""
    return habits.transfer_units * hidden_s


def _cover(one: MicroStep, idle: Any, plan: PlanNumbers) -> MicroStep:
    """What transfers can hide behind: arithmetic and the device's waiting for launches.

    What hides the context ring (the attention core) hides nothing else.
    """
    ring = np.where(np.asarray(plan.context) > 1, one.attention, 0.0)
    return replace(
        one,
        attention=one.attention + idle,
        forward=np.maximum(0.0, one.forward - 0.25 * ring) + idle,
        backward=np.maximum(0.0, one.backward - 0.75 * ring) + idle,
    )


def _once_a_step(
    inputs: StepInputs, sent: Exchange, cover: MicroStep, plan: PlanNumbers, crowd: Any
) -> tuple[Any, Any]:
    """Exposed seconds of the exchange of gradients and new parameters, and those by which its rest slows arithmetic."""
    plain = _gradient_exposed(inputs.habits, sent, cover, plan)
    exposed = np.where(np.isnan(inputs.gradient_s), plain, inputs.gradient_s)
    hidden = np.where(np.isnan(inputs.gradient_s), sent.gradient + sent.parameters - plain, 0.0)
    by_cores = slowed_s(hidden, plan.devices, inputs.cores, inputs.habits.transfer_cores)
    return crowd * exposed, crowd * by_cores + taken_s(hidden, inputs.habits)


def _gradient_exposed(habits: StackHabits, sent: Exchange, cover: MicroStep, plan: PlanNumbers) -> Any:
    """What of the gradient exchange the last micro-steps' backward does not hide, and of new parameters the forward.

    Where a stack does not gather new parameters beside the next forward pass, they wait with the gradients.
    """
    ahead = habits.parameters_ahead * sent.parameters
    gradients = sent.gradient + sent.parameters - ahead
    return _by_chunks(gradients, cover.backward, habits, plan) + _by_chunks(ahead, cover.forward, habits, plan)


def _by_chunks(transfer: Any, passes: Any, habits: StackHabits, plan: PlanNumbers) -> Any:
    """Exposed seconds of a transfer that each chunk of an interleaved pipeline begins as soon as its passes are done.

    `passes` are those of all chunks for one micro-batch.  The last chunk can hide behind part of its last pass; the
    others have the passes of the chunks after them too, of as many micro-batches as there are stages.
    """
    chunks, batches = np.asarray(plan.virtual_stages), np.minimum(plan.pipeline, plan.accumulation)
    beside = habits.gradient_cover * passes / chunks
    before = np.where(np.asarray(habits.gradient_cover) > 0, (1.0 - 1.0 / chunks) * batches * passes, 0.0)
    rest = (1.0 - habits.gradient_exposed) * transfer
    left = np.maximum(rest / chunks - beside, rest - beside - before)
    return habits.gradient_exposed * transfer + np.maximum(0.0, left)


def _update_s(inputs: StepInputs, plan: PlanNumbers) -> Any:
    """Seconds of the optimiser: each state read and written once, gradients read twice (norm, update)."""
    counts, rates = inputs.counts, inputs.rates
    held, habits = held_parameters(counts, plan), inputs.habits
    alike = sum(held) / np.where(np.asarray(plan.zero_stage) >= 1, plan.shards, 1.0)
    own = np.where(np.asarray(habits.expert_updates) > 0, sharded(held, plan, 1), alike) * inputs.trainable_share
    return habits.update_s + habits.update_bytes * own / rates.memory_bytes_per_s
