"""One micro-step on the slowest pipeline stage: device seconds by kind of work, and the host's seconds to issue them.

Arrays or plain numbers; communication is `exchange`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datahall.compute.adapters import AdapterNumbers
from datahall.compute.counts import ShapeCounts
from datahall.compute.estimate import DeviceRates, product_s, traffic_s
from datahall.compute.numbers import PlanNumbers
from datahall.virtual.habits import StackHabits

# Kernels of one layer forward: projections and attention, MLP, norms, rotary, residuals.  Backward has twice as many.
_LAYER_KERNELS = 25.0
_MIXTURE_KERNELS = 24.0  # router, permutation, grouped products, on top
_ELEMENTS_PER_HIDDEN = 6.0  # norms and residuals, each pair fused
_LOOKUP_KERNELS = 5.0  # one forward; backward the table's zeros, then tokens sorted, their rows summed and added


@dataclass(frozen=True, slots=True)
class MicroStep:
    """Seconds of one micro-step; `forward` and `backward` are device seconds of the stage's layers."""

    linear: Any
    attention: Any
    elementwise: Any
    experts: Any
    embedding: Any
    logits: Any
    recompute: Any
    host: Any
    forward: Any
    backward: Any

    @property
    def device(self) -> Any:
        """Device seconds of the whole micro-step."""
        ends = self.embedding + self.logits
        return self.linear + self.attention + self.elementwise + self.experts + ends + self.recompute


def micro_step(
    counts: ShapeCounts,
    sequence: Any,
    rates: DeviceRates,
    habits: StackHabits,
    plan: PlanNumbers,
    adapters: AdapterNumbers,
) -> MicroStep:
    """The micro-step of `plan` on its slowest stage; with `adapters` everything else is frozen."""
    counts = _as_run(counts, habits, plan)
    tokens = plan.micro_batch * sequence / plan.context
    chunk = plan.pipeline * plan.virtual_stages
    full = np.ceil(counts.layers / chunk)  # layers of a chunk; the last ones of those that do not fill up lack one
    layers = full * plan.virtual_stages
    mixture = layers * counts.moe_layers / counts.layers
    grads = np.where(np.asarray(adapters.rank) > 0, 1.0, 2.0)  # products backward: inputs', and weights' if trained
    dense = _linear_s(counts, tokens, layers, mixture, rates, plan)
    experts, permute = _experts_s(counts, tokens, mixture, rates, plan)
    core = _attention_s(counts, sequence, tokens, layers, rates, plan)
    heads = layers * plan.micro_batch * counts.heads / plan.tensor
    attend = core + heads * rates.attention_head_s
    element = _element_s(counts, tokens, layers, mixture, rates, plan)
    thin = layers * _adapter_s(tokens, rates, plan, adapters)
    attend_back = core / rates.attention_backward_share * 2.5 + heads * rates.attention_head_backward_s
    again_linear, again_core = (_repeated(share, plan) for share in (habits.selective_linear, habits.selective_core))
    again = again_linear * ((1.0 - _spared(counts, habits, plan)) * dense + experts + permute + element)
    recompute = again + again_core * np.where(np.asarray(plan.recompute) >= 4, 0.0, attend)
    kernels = _forward_kernels(counts, layers, mixture, rates, habits, plan, adapters)
    forward = dense + thin + attend + element + experts + permute
    backward = grads * (dense + experts) + 2.0 * thin + attend_back + 2.0 * element + permute + recompute
    spare = np.minimum(1.0, full * chunk - counts.layers) * (forward + backward) / layers
    return MicroStep(
        linear=(1.0 + grads) * dense + 3.0 * thin,
        attention=attend + attend_back,
        elementwise=3.0 * element,
        experts=(1.0 + grads) * experts + 2.0 * permute,
        embedding=_embedding_s(counts, tokens, rates, plan, grads),
        logits=np.maximum(0.0, _logits_s(counts, tokens, rates, plan, grads) - spare),
        recompute=recompute,
        host=kernels * (3.0 + again_linear) * rates.launch_s,
        forward=forward,
        backward=backward,
    )


def _as_run(counts: ShapeCounts, habits: StackHabits, plan: PlanNumbers) -> ShapeCounts:
    """`counts` of latent attention and of routers as the stack goes through them, before tensor ranks cut them."""
    whole = habits.own_latents * (plan.tensor - 1.0) * counts.whole_weights
    filled = habits.own_latents * (counts.score_width - counts.value_width)
    all_tokens = habits.own_routers * np.where(np.asarray(plan.expert) > 1, 0.0, plan.tensor - 1.0)
    return replace(
        counts,
        attention_weights=counts.attention_weights + whole,
        value_width=counts.value_width + filled,
        shared_weights=counts.shared_weights + all_tokens * counts.router_weights,
    )


def last_share(counts: ShapeCounts) -> Any:
    """The MLP's last product among a dense layer's products: nothing in the backward pass needs its result again."""
    share = counts.dense_weights / counts.mlp_matrices / (counts.attention_weights + counts.dense_weights)
    return share * (1.0 - counts.moe_layers / counts.layers)


def first_share(counts: ShapeCounts) -> Any:
    """The projections to queries, keys and values among a layer's products."""
    mixture = counts.moe_layers / counts.layers
    beside = (1.0 - mixture) * counts.dense_weights + mixture * (counts.shared_weights + counts.router_weights)
    first = counts.attention_weights - counts.hidden * counts.value_width
    return first / (counts.attention_weights + beside)


def _spared(counts: ShapeCounts, habits: StackHabits, plan: PlanNumbers) -> Any:
    """The share of a layer's products that full recomputation leaves out: the last, and those whose results stay."""
    mode = np.asarray(plan.recompute)
    last = np.where(mode >= 2, (1.0 - habits.last_repeated) * last_share(counts), 0.0)
    return last + np.where(mode >= 3, first_share(counts), 0.0)


def _repeated(selective_share: Any, plan: PlanNumbers) -> Any:
    """The share of a layer's forward work that is done again: none, the selective share, or all."""
    mode = np.asarray(plan.recompute)
    return np.where(mode >= 2, 1.0, np.where(mode >= 1, selective_share, 0.0))


def _forward_kernels(
    counts: ShapeCounts,
    layers: Any,
    mixture: Any,
    rates: DeviceRates,
    habits: StackHabits,
    plan: PlanNumbers,
    adapters: AdapterNumbers,
) -> Any:
    """Kernels that the host issues for one pass forward."""
    apart = mixture * habits.expert_kernels * _local_experts(counts, plan)
    collectives = 2.0 * rates.collective_kernels * np.minimum(plan.tensor - 1.0, 1.0)
    return layers * (_LAYER_KERNELS + collectives + 4.0 * adapters.matrices) + mixture * _MIXTURE_KERNELS + apart


def _linear_s(
    counts: ShapeCounts, tokens: Any, layers: Any, mixture: Any, rates: DeviceRates, plan: PlanNumbers
) -> Any:
    """Forward seconds of the dense products and of what comes with each (kernel ramps, casts)."""
    dense = layers - mixture
    attention, mlp = counts.attention_weights / plan.tensor, counts.dense_weights / plan.tensor
    shared = (counts.shared_weights + counts.router_weights) / plan.tensor
    operand = np.minimum(np.asarray(plan.linear_bits) / 8.0, rates.word_bytes)
    narrow = np.where(operand < rates.word_bytes, 1.0, 0.0)
    total = 0.0
    cast = 0.0
    for weights, width, count in (
        (attention, counts.attention_width, layers),
        (mlp, counts.dense_width, dense),
        (shared, counts.shared_width, mixture),
    ):
        touched = tokens * (2.0 * counts.hidden + width / plan.tensor) * np.where(np.asarray(weights) > 0, 1.0, 0.0)
        moved = operand * (weights + touched / 2.0) + rates.word_bytes * touched / 2.0
        rate = rates.linear_flops_per_s / _narrow(counts.hidden, width / plan.tensor / 2.0, rates)
        total = total + count * product_s(2.0 * tokens * weights, moved, rate, rates.memory_bytes_per_s)
        cast = cast + count * narrow * rates.cast_passes * (touched * (rates.word_bytes + operand) + weights * operand)
    kernels = 2.0 * layers + counts.mlp_matrices * dense
    return total + (kernels * rates.kernel_s + cast / rates.memory_bytes_per_s)


def _narrow(hidden: Any, width: Any, rates: DeviceRates) -> Any:
    """How much longer products with these inner and outer widths take than large ones (ramp and tail of each tile)."""
    return 1.0 + rates.narrow_width * (1.0 / hidden + 1.0 / np.maximum(width, 128.0)) / 2.0


def _experts_s(
    counts: ShapeCounts, tokens: Any, mixture: Any, rates: DeviceRates, plan: PlanNumbers
) -> tuple[Any, Any]:
    """Forward seconds of grouped expert products, and of routing and permuting tokens."""
    operand = np.minimum(np.asarray(plan.linear_bits) / 8.0, rates.word_bytes)
    routed = tokens * counts.experts_per_token
    spread = np.where(np.asarray(plan.expert) > 1, plan.expert, plan.tensor)
    flops = 2.0 * routed * counts.expert_weights / plan.tensor
    local = _local_experts(counts, plan)
    held = counts.experts * counts.expert_weights / spread
    moved = operand * held + rates.word_bytes * routed * (2.0 * counts.hidden + counts.expert_width) / plan.tensor
    rate = rates.linear_flops_per_s * rates.expert_share / _narrow(counts.hidden, counts.expert_width / 2.0, rates)
    grouped = product_s(flops, moved, rate, rates.memory_bytes_per_s)
    touched = rates.word_bytes * routed * (6.0 * counts.hidden + 2.0 * counts.expert_width) / plan.tensor
    permute = traffic_s(rates.permute_passes * touched, rates.memory_bytes_per_s, rates.kernel_s, 8.0 + 2.0 * local)
    return mixture * grouped, mixture * permute


def _local_experts(counts: ShapeCounts, plan: PlanNumbers) -> Any:
    """Routed experts of one layer on one device."""
    return counts.experts / np.where(np.asarray(plan.expert) > 1, plan.expert, 1.0)


def _attention_s(
    counts: ShapeCounts, sequence: Any, tokens: Any, layers: Any, rates: DeviceRates, plan: PlanNumbers
) -> Any:
    """Forward seconds of the attention core: the causal half of the scores that the kernel really computes."""
    flops = (
        2.0
        * tokens
        * counts.keys(sequence)
        * (counts.score_width + counts.value_width)
        * rates.causal_share
        / plan.tensor
    )
    moved = rates.word_bytes * tokens * (counts.score_width + counts.value_width + counts.key_value_width) / plan.tensor
    moved = moved + rates.score_passes * rates.word_bytes * tokens * counts.keys(sequence) * counts.heads / plan.tensor
    return layers * product_s(flops, moved, rates.attention_flops_per_s, rates.memory_bytes_per_s, rates.kernel_s)


def _element_s(
    counts: ShapeCounts, tokens: Any, layers: Any, mixture: Any, rates: DeviceRates, plan: PlanNumbers
) -> Any:
    """Forward seconds of norms, residuals, rotary and activation functions."""
    split = np.where(np.asarray(plan.sequence_parallel) > 0, plan.tensor, 1.0)
    outside = _ELEMENTS_PER_HIDDEN * counts.hidden / split + 1.5 * counts.attention_width / plan.tensor
    inside = 2.5 * (layers - mixture) * counts.dense_width + 2.5 * mixture * counts.shared_width
    moved = rates.word_bytes * tokens * (layers * outside + inside / plan.tensor)
    return traffic_s(rates.element_passes * moved, rates.memory_bytes_per_s, rates.kernel_s, 6.0 * layers)


def _adapter_s(tokens: Any, rates: DeviceRates, plan: PlanNumbers, adapters: AdapterNumbers) -> Any:
    """Forward seconds of one layer's adapters: thin products, and their outputs added to the frozen ones'."""
    flops = 2.0 * tokens * adapters.rank * adapters.width / plan.tensor
    moved = 3.0 * rates.word_bytes * tokens * adapters.width / plan.tensor
    kernels = adapters.matrices
    return product_s(flops, moved, rates.linear_flops_per_s, rates.memory_bytes_per_s, rates.kernel_s, kernels)


def _embedding_s(counts: ShapeCounts, tokens: Any, rates: DeviceRates, plan: PlanNumbers, grads: Any) -> Any:
    """Forward and backward seconds of the lookup of tokens in their table, where one stage has both ends.

    A row is read and written for each token; backward a token's gradient is read, and its row read and written, in a
    gradient as large as a rank's part of the table, which is first zeroed and then read.  Of a pipeline the first stage
    looks up while the last, which has the head, is the slower one.  One-hot products instead of lookups are not
    forecast.
    """
    alone = np.where(np.asarray(plan.pipeline) > 1, 0.0, np.minimum(counts.vocab, 1.0))
    trained = grads - 1.0
    rows = (2.0 + 3.0 * trained) * tokens * counts.hidden
    moved = rates.word_bytes * (rows + 2.0 * trained * counts.head_weights / plan.tensor)
    kernels = 1.0 + (_LOOKUP_KERNELS - 1.0) * trained
    return alone * traffic_s(moved, rates.memory_bytes_per_s, rates.kernel_s, kernels)


def _logits_s(counts: ShapeCounts, tokens: Any, rates: DeviceRates, plan: PlanNumbers, grads: Any) -> Any:
    """Forward and backward seconds of head and loss (scores in 32 bits, read and written about four times)."""
    flops = 2.0 * (1.0 + grads) * tokens * counts.head_weights / plan.tensor
    moved = (1.0 + grads) * rates.word_bytes * (counts.head_weights / plan.tensor + tokens * counts.hidden)
    softmax = 16.0 * tokens * counts.vocab / plan.tensor
    product = product_s(flops, moved, rates.wide_flops_per_s, rates.memory_bytes_per_s, rates.kernel_s, 1.0 + grads)
    return product + traffic_s(softmax, rates.memory_bytes_per_s)
