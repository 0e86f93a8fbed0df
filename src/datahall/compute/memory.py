"""What one device holds during training, item by item, in bytes.

Arrays or plain numbers.  Counts of bytes are estimates except for states, which are exact up to uneven shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datahall.base.formula import formula
from datahall.compute.adapters import AdapterNumbers
from datahall.compute.counts import ShapeCounts
from datahall.compute.numbers import PlanNumbers

_RESERVED_BYTES = 1.5 * 2**30  # context, libraries' workspaces, communicators
# Counted at PyTorch's allocator on two and four stages: of a micro-batch that waits, beside what its forward pass kept.
_GRADIENTS_PUT_OFF = 0.6  # gradients of what products and norms gave, as a share of what they kept
_SCORES_KEPT = 0.5  # of what the scores of the head take at work: no gradients
_SCORES_PUT_OFF = 0.25  # their gradient alone


@dataclass(frozen=True, slots=True)
class MemoryHabits:
    """How a stack stores things: bytes per parameter and what it keeps."""

    weight_bytes: Any = 2.0  # resident copy used in products
    gradient_bytes: Any = 4.0
    optimiser_bytes: Any = 12.0  # 32-bit master copy and Adam's two moments
    selective_kept: Any = 1.0  # share of a layer's activations that "selective" recomputation keeps
    logit_bytes: Any = 8.0  # per score: 32-bit scores and their gradient
    activation_passes: Any = 1.0  # copies that the engine keeps beside those that the backward pass needs
    working_layers: Any = 0.0  # a layer's activations, so many times, that its backward pass makes and drops
    late_gradients: Any = 0.0  # 1: with one micro-step, gradients are allocated as activations are dropped
    routed_copies: Any = 2.0  # of a token's vector kept for each of its experts: what goes in and what comes out
    gathered_copies: Any = 0.0  # of one layer's input alive at once where sequence-split activations are gathered
    pipeline_whole_bytes: Any = 0.0  # a parameter that ZeRO-3 keeps whole between a pipeline's micro-batches
    fragmentation_share: Any = 0.05
    reserved_bytes: Any = _RESERVED_BYTES


@dataclass(frozen=True, slots=True)
class MemoryBytes:
    """Bytes on the fullest device, by item."""

    weights: Any
    gradients: Any
    optimiser: Any
    activations: Any
    buffers: Any
    fragmentation: Any

    @property
    def total(self) -> Any:
        """Bytes of all items."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.buffers + self.fragmentation


@formula(
    equation="states = P (w + g + o), each divided by the ranks that ZeRO shards it over",
    source="ZeRO (arXiv 1910.02054), section 3.1; activations as Korthikanti et al. 2022 (arXiv 2205.05198)",
    holds="fused attention (no stored scores); of m micro-batches 1F1B keeps min(m, p) on the first of p stages and "
    "one on the last, GPipe m on each, zero-bubble min(m, p) on each",
)
def memory(
    counts: ShapeCounts,
    sequence: Any,
    plan: PlanNumbers,
    habits: MemoryHabits | None = None,
    *,
    trainable_share: Any = 1.0,
    adapters: AdapterNumbers | None = None,
) -> MemoryBytes:
    """Bytes that the fullest device holds at the peak of a step.

    With `adapters` the rest is frozen: `trainable_share` of the parameters comes on top and has gradients and states.
    """
    habits, adapters = habits or MemoryHabits(), adapters or AdapterNumbers()
    word = np.maximum(2.0, np.minimum(4.0, np.asarray(plan.linear_bits) / 8.0))
    full = np.where(word > 2.0, 1.0, 0.0)  # a 32-bit run has no separate master copy
    held, layer = _parameters(counts, plan)
    zero, parameters = np.asarray(plan.zero_stage), sum(held)
    weights = np.maximum(habits.weight_bytes, word) * sharded(held, plan, 3)
    gradients = habits.gradient_bytes * trainable_share * sharded(held, plan, 2)
    states = (habits.optimiser_bytes - 4.0 * full) * trainable_share * sharded(held, plan, 1)
    weights = weights * (1.0 + np.where(np.asarray(adapters.rank) > 0, trainable_share, 0.0))
    activations = habits.activation_passes * _activations(counts, sequence, plan, habits, word, adapters)
    late = habits.late_gradients * (np.asarray(plan.accumulation) == 1)
    gradients = gradients - late * np.minimum(gradients, activations)
    gathered = np.where(zero >= 3, 2.0 * word * layer, 0.0)
    piped = (zero >= 3) & (np.asarray(plan.pipeline) > 1) & (np.asarray(plan.shards) > 1)
    whole = np.where(piped, habits.pipeline_whole_bytes * parameters, 0.0)
    buffers = gathered + whole + habits.reserved_bytes
    return MemoryBytes(
        weights, gradients, states, activations, buffers, habits.fragmentation_share * (activations + gathered)
    )


def held_parameters(counts: ShapeCounts, plan: PlanNumbers) -> tuple[Any, Any]:
    """Dense and expert parameters on one device before ZeRO shards them, embeddings spread evenly over the stages.

    What leads to a latent is whole on every tensor rank.  Experts are spread over the expert ranks, and the
    shared ones whole on all of these, or split like everything else where there are none.
    """
    dense_layers = counts.layers - counts.moe_layers
    attention = counts.attention_weights + (plan.tensor - 1.0) * counts.whole_weights
    dense = counts.layers * attention + dense_layers * counts.dense_weights + counts.other_parameters
    whole = np.where(np.asarray(plan.expert) > 1, plan.tensor, 1.0)
    dense = dense + counts.moe_layers * counts.shared_weights * whole + counts.embedding_parameters
    spread = np.where(np.asarray(plan.expert) > 1, plan.expert, plan.tensor)
    experts = counts.moe_layers * counts.experts * counts.expert_weights
    return dense / (plan.tensor * plan.pipeline), experts / (spread * plan.pipeline)


def sharded(held: tuple[Any, Any], plan: PlanNumbers, stage: int) -> Any:
    """What of the dense and expert parameters `held` is left on one device by what ZeRO shards from `stage` on.

    Experts are shared by the ranks that hold the same ones only.
    """
    dense, experts = held
    spread = np.asarray(plan.zero_stage) >= stage
    return dense / np.where(spread, plan.shards, 1.0) + experts / np.where(spread, plan.expert_shards, 1.0)


def _parameters(counts: ShapeCounts, plan: PlanNumbers) -> tuple[tuple[Any, Any], Any]:
    """Dense and expert parameters of the fullest stage on one device before sharding; all of one of its layers."""
    dense, experts = held_parameters(counts, plan)
    ends = counts.embedding_parameters / plan.tensor
    own = np.ceil(counts.layers / plan.pipeline) * plan.pipeline / counts.layers
    outside = np.where(np.asarray(plan.pipeline) > 1, counts.head_weights / plan.tensor, ends)
    inside = dense - ends / plan.pipeline
    return (own * inside + outside, own * experts), (inside + experts) * plan.pipeline / counts.layers


def _activations(
    counts: ShapeCounts, sequence: Any, plan: PlanNumbers, habits: MemoryHabits, word: Any, adapters: AdapterNumbers
) -> Any:
    """Bytes kept for the backward pass at the peak of the stage that holds most, the head's scores among them."""
    tokens = plan.micro_batch * sequence / plan.context
    split = np.where(np.asarray(plan.sequence_parallel) > 0, plan.tensor, 1.0)
    own = np.ceil(counts.layers / plan.pipeline)
    factor = counts.mlp_matrices / np.maximum(counts.mlp_matrices - 1.0, 1.0)
    mixture = counts.moe_layers / counts.layers
    routed = counts.experts_per_token * (factor * counts.expert_width + habits.routed_copies * counts.hidden)
    routed = routed + factor * counts.shared_width
    inside = (1.0 - mixture) * factor * counts.dense_width + mixture * routed
    # A frozen MLP's products keep no inputs, since no gradient of their weights is asked for.
    frozen = np.where((np.asarray(adapters.rank) > 0) & (np.asarray(adapters.mlp) == 0), 1.0 - mixture, 0.0)
    inside = inside - frozen * counts.dense_width / np.maximum(counts.mlp_matrices - 1.0, 1.0)
    stream = (4.0 - frozen) * counts.hidden / split
    attention = counts.attention_width + (plan.tensor - 1.0) * counts.whole_width
    layer = word * tokens * (stream + (attention + inside) / plan.tensor)
    inputs = word * tokens * counts.hidden / split
    recompute = np.asarray(plan.recompute)
    projected = inputs + word * tokens * (counts.score_width + counts.key_value_width) / plan.tensor
    attended = projected + word * tokens * counts.value_width / plan.tensor
    inputs = np.select([recompute >= 4, recompute >= 3], [attended, projected], inputs)
    kept = np.where(recompute >= 2, inputs, np.where(recompute >= 1, habits.selective_kept * layer, layer))
    alive = np.where(recompute >= 2, layer, (1.0 - habits.selective_kept) * layer * (recompute >= 1))
    logits = habits.logit_bytes * tokens * counts.vocab / plan.tensor
    gathered = np.where(np.asarray(plan.tensor) > 1, habits.gathered_copies * word * tokens * counts.hidden, 0.0)
    held = _in_flight(own * kept, logits, plan)
    return held + alive + habits.working_layers * layer + gathered


def _in_flight(kept: Any, logits: Any, plan: PlanNumbers) -> Any:
    """Bytes of micro-batches between their passes, on the first or the last stage, whichever holds more.

    `kept` is what one leaves on a stage, `logits` what the head's scores take while they are worked on.  The first
    stage has begun most micro-batches, the last one has the head; where gradients of weights are put off (zero-bubble),
    its micro-batches wait longest, with the gradients of what their products gave.
    """
    stages, batches, chunks = np.asarray(plan.pipeline), np.asarray(plan.accumulation), np.asarray(plan.virtual_stages)
    every, put_off = np.asarray(plan.keeps_all) > 0, plan.puts_off
    apart = np.where(put_off, 0.0, (stages - 1.0) / chunks)  # what the first stage has begun more, and the last less
    first = np.minimum(batches, np.where(every, batches, stages + np.where(chunks > 1, apart, 0.0)))
    last = np.minimum(batches, np.where(every, batches, stages - apart))
    waiting = np.where(put_off, np.minimum(batches, stages), 0.0)
    scores = 1.0 + np.where(every, _SCORES_KEPT * (batches - 1.0), _SCORES_PUT_OFF * np.maximum(0.0, waiting - 1.0))
    at_last = kept * (last + _GRADIENTS_PUT_OFF * waiting / chunks) + scores * logits
    return np.where(stages > 1, np.maximum(first * kept, at_last), kept + logits)
