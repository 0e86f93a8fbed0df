"""What travels during a step, and how much of it arithmetic does not hide.

Numbers or arrays throughout; how stacks differ is `habits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datahall.compute.counts import ShapeCounts
from datahall.compute.handed import GRADIENT_BYTES
from datahall.compute.memory import held_parameters
from datahall.compute.numbers import PlanNumbers
from datahall.network.estimate import (
    all_gather_s,
    group_bytes_per_s,
    hierarchical_all_reduce_s,
    ranks_inside,
    reduce_scatter_s,
    ring_all_reduce_s,
    send_s,
)
from datahall.virtual.habits import StackHabits
from datahall.virtual.links import LinkRates
from datahall.virtual.micro_step import MicroStep

_ATTENTION_TENSORS = 4.0  # of a layer: a projection in, one out, two norms


@dataclass(frozen=True, slots=True)
class Exchange:
    """Exposed seconds per micro-step by kind; `gradient` and `parameters` are whole exchanges once a step, not yet
    hidden: of gradients, and of new parameters where each rank updates its share of them.  `hidden` are the seconds of
    a micro-step's other transfers that run beside arithmetic."""

    tensor: Any
    context: Any
    expert: Any
    shard: Any
    pipeline: Any
    gradient: Any
    parameters: Any
    hidden: Any

    @property
    def per_micro_step(self) -> Any:
        """Exposed seconds of one micro-step."""
        return self.tensor + self.context + self.expert + self.shard + self.pipeline


def exposed_s(transfer: Any, cover: Any, exposed: Any) -> Any:
    """Exposed seconds of a transfer beside `cover` seconds of arithmetic, `exposed` of it never hidden."""
    return exposed * transfer + np.maximum(0.0, (1.0 - exposed) * transfer - cover)


def exchange_s(
    counts: ShapeCounts,
    sequence: Any,
    links: LinkRates,
    habits: StackHabits,
    word_bytes: Any,
    plan: PlanNumbers,
    one: MicroStep,
    trainable_share: Any = 1.0,
) -> Exchange:
    """What a step of `plan` exchanges; of the gradients, those of the share that is trained."""
    tokens = plan.micro_batch * sequence / plan.context
    chunk = plan.pipeline * plan.virtual_stages
    layers = np.ceil(counts.layers / chunk) * plan.virtual_stages
    mixture = layers * counts.moe_layers / counts.layers
    again = 1.0 + 0.25 * (1.0 + habits.last_repeated) * np.where(np.asarray(plan.recompute) >= 2, 1.0, 0.0)
    tensor = again * _tensor_s(counts, tokens, layers, mixture, links, word_bytes, plan)
    ring = _context_s(counts, tokens, layers, links, word_bytes, plan)
    context = exposed_s(ring, one.attention, habits.context_exposed)
    routed = np.where(again > 1.0, 1.5, 1.0) * _expert_s(counts, tokens, mixture, links, word_bytes, plan)
    uncovered = np.maximum(0.0, routed - one.forward - one.backward)
    expert = habits.expert_exposed * routed + habits.expert_hidden * uncovered
    sends, told = _pipeline_s(counts, tokens, links, word_bytes, plan)
    state = _state_s(counts, links, habits, word_bytes, plan, one, trainable_share)
    hidden = (1.0 - habits.tensor_exposed) * tensor + ring - context + routed - expert + state.hidden
    return Exchange(
        tensor=habits.tensor_exposed * tensor + habits.expert_updates * trainable_share * _alike_s(counts, links, plan),
        context=context,
        expert=expert + np.where(np.asarray(plan.expert) > 1, habits.expert_wait * one.experts, 0.0),
        shard=state.shard,
        pipeline=habits.pipeline_exposed * sends + habits.tied_exposed * told,
        gradient=state.gradient,
        parameters=state.parameters,
        hidden=hidden + (1.0 - habits.pipeline_exposed) * sends,
    )


def _tensor_s(
    counts: ShapeCounts, tokens: Any, layers: Any, mixture: Any, links: LinkRates, word: Any, plan: PlanNumbers
) -> Any:
    """Two all-reduces a layer forward and two backward (as gather and scatter, where the sequence is split too).

    Of a mixture whose experts are shared out none, but where tensor ranks have all tokens: each then takes its own
    through it, and what comes out is gathered, as are gradients.
    """
    ranks, payload = plan.tensor, word * tokens * counts.hidden
    ring = ring_all_reduce_s(payload, ranks, *links.group(ranks, 1.0))
    whole = np.asarray(plan.sequence_parallel) == 0  # one call sums and shares, which may go by domains
    both = np.where(whole, np.minimum(ring, _by_domains_s(payload, ranks, links)), ring)
    routed = np.where(np.asarray(plan.expert) > 1, mixture, 0.0)
    return (4.0 * layers - 2.0 * routed) * both + np.where(whole, routed, 0.0) * ring


def _by_domains_s(payload: Any, ranks: Any, links: LinkRates) -> Any:
    """An all-reduce of neighbours inside their domains, then between: two domains send half of what a ring does."""
    near = ranks_inside(ranks, 1.0, links.domain)
    in_pod = np.maximum(1.0, links.pod)
    out = group_bytes_per_s(ranks, near, np.inf, links.out_bytes_per_s, links.oversubscription, in_pod) / near
    return hierarchical_all_reduce_s(payload, ranks, near, *links.near(near), out, links.out_latency_s)


def _alike_s(counts: ShapeCounts, links: LinkRates, plan: PlanNumbers) -> Any:
    """Gradients of the same experts on several tensor ranks, summed once a step, by micro-step."""
    ranks = np.where(np.asarray(plan.expert) > 1, plan.tensor, 1.0)
    rate, hop = links.group(ranks, 1.0)
    _, experts = held_parameters(counts, plan)
    return 2.0 * all_gather_s(GRADIENT_BYTES * experts, ranks, rate, hop) / plan.accumulation


def _context_s(
    counts: ShapeCounts,
    tokens: Any,
    layers: Any,
    links: LinkRates,
    word: Any,
    plan: PlanNumbers,
) -> Any:
    """Keys and values once around the context ring forward, twice backward (with their gradients)."""
    ranks = plan.context
    rate, hop = links.group(ranks, plan.tensor)
    held = word * tokens * counts.ring_width / plan.tensor
    return 3.0 * layers * all_gather_s(held * ranks, ranks, rate, hop)


def _expert_s(counts: ShapeCounts, tokens: Any, mixture: Any, links: LinkRates, word: Any, plan: PlanNumbers) -> Any:
    """Tokens to their experts and back, forward and backward; one copy per remote domain."""
    ranks = plan.expert
    held = word * tokens * counts.hidden / plan.tensor
    near = ranks_inside(ranks, 1.0, links.domain)
    domains = np.ceil(ranks / near)
    reached = domains * (1.0 - (1.0 - 1.0 / domains) ** counts.experts_per_token) * (domains - 1.0) / domains
    inside = links.exchanged_near_s(held * counts.experts_per_token, near)
    in_pod = np.ceil(ranks_inside(ranks, 1.0, np.maximum(links.pod, links.domain)) / near)
    rate = links.out_bytes_per_s * links.out_share((domains - in_pod) / np.maximum(domains - 1.0, 1.0))
    outside = send_s(held * reached, rate, links.out_latency_s * (domains - 1.0))
    return mixture * 4.0 * np.where(ranks > 1, np.maximum(inside, outside), 0.0)


@dataclass(frozen=True, slots=True)
class _State:
    """What parameters and gradients travel for: in each micro-step, exposed and hidden, and once a step, whole."""

    shard: Any
    hidden: Any
    gradient: Any
    parameters: Any


def _state_s(
    counts: ShapeCounts,
    links: LinkRates,
    habits: StackHabits,
    word: Any,
    plan: PlanNumbers,
    one: MicroStep,
    trainable_share: Any,
) -> _State:
    """Parameters gathered and gradients scattered every micro-step (stage 3); gradients, and new parameters, once."""
    shards = plan.shards
    every = plan.data * plan.context
    dense, experts = held_parameters(counts, plan)
    expert_ranks, stride = plan.expert_shards, plan.tensor * plan.expert
    waits = np.where(np.asarray(counts.moe_layers) > 0, 1.0, habits.expert_latency)
    back = np.where(np.asarray(plan.zero_stage) == 0, habits.gradient_bytes, word)  # an all-reduce, or new parameters
    calls = habits.shard_calls
    owners = np.minimum(shards, counts.layers / plan.pipeline * (_ATTENTION_TENSORS + counts.mlp_matrices))
    sends = np.where((np.asarray(plan.zero_stage) <= 2) & (habits.owner_broadcasts > 0), owners, calls)
    gathered = _gather_s(back * dense, shards, plan.tensor, links, sends)
    gathered = gathered + waits * _gather_s(back * experts, expert_ranks, stride, links)
    reduced = _scatter_s(habits.gradient_bytes * dense, shards, plan.tensor, links, calls)
    reduced = reduced + waits * _scatter_s(habits.gradient_bytes * experts, expert_ranks, stride, links)
    gathered, reduced = habits.gather_passes * gathered, habits.scatter_passes * reduced
    shared = np.where(every > plan.expert * expert_ranks, experts / expert_ranks, 0.0)
    held = habits.gradient_bytes * (dense / shards + shared)
    across = 2.0 * _gather_s(held, every / shards, plan.tensor * shards, links)
    reduced, across = trainable_share * reduced, trainable_share * across
    zero = np.asarray(plan.zero_stage)
    sharded = zero >= habits.shard_from_stage
    kept = (np.asarray(habits.shards_kept) > 0) & (np.asarray(plan.pipeline) > 1)
    once = np.where(kept, 1.0 / plan.accumulation, 1.0)
    again = np.where(zero >= 3, gathered, 0.0)  # stage 2 keeps what it gathered for the forward pass
    ahead, behind = once * gathered, again + once * reduced
    forward = exposed_s(ahead, one.forward, habits.shard_exposed)
    backward = exposed_s(behind, one.backward, habits.shard_exposed)
    returned = np.where(sharded, 0.0, trainable_share * gathered)  # new parameters, or an all-reduce's way back
    summed = np.where(sharded, 0.0, reduced) + np.where(zero == 0, returned, 0.0)
    return _State(
        shard=np.where(sharded, forward + backward, 0.0),
        hidden=np.where(sharded, ahead + behind - forward - backward, 0.0),
        gradient=across + summed,
        parameters=np.where(zero == 0, 0.0, returned),
    )


def _pipeline_s(counts: ShapeCounts, tokens: Any, links: LinkRates, word: Any, plan: PlanNumbers) -> tuple[Any, Any]:
    """Activations to the next stage and gradients back, for each chunk of layers; and the sum of a tied table.

    Each tensor rank sends its part.  Where every rank has the whole (no sequence parallelism), engines scatter before
    the send and gather behind it (arXiv 2104.04473, section 4.1).  The slowest hop counts, since every stage waits for
    it: the one that leaves a domain, unless all stages are in one.  A table that is also the head has its gradients
    told from the last stage to the first once a step.
    """
    stride = plan.tensor * plan.data * plan.context
    pod = np.maximum(links.pod, links.domain)
    crossing = np.where(stride * plan.pipeline > pod, np.minimum(1.0, stride / pod), 0.0)  # a pod's last stage alone
    out = links.out_bytes_per_s * links.out_share(crossing)
    rate = np.where(stride * plan.pipeline <= links.domain, links.neighbour_bytes_per_s, out)
    sends = 2.0 * plan.virtual_stages * np.minimum(plan.pipeline - 1.0, 1.0)
    held = word * tokens * counts.hidden
    whole = np.where(np.asarray(plan.sequence_parallel) > 0, 1.0, plan.tensor)
    gather = _gather_s(held, whole, 1.0, links)
    passed = sends * (send_s(held / plan.tensor, rate, links.out_latency_s) + gather)
    spread = plan.tensor * np.where(np.asarray(plan.zero_stage) >= 2, plan.shards, 1.0)
    tied = np.where(np.asarray(plan.pipeline) > 1, GRADIENT_BYTES * counts.tied_weights / spread, 0.0)
    told = np.where(tied > 0, send_s(tied, rate, links.out_latency_s), 0.0)
    return passed, told / plan.accumulation


def _gather_s(payload: Any, ranks: Any, stride: Any, links: LinkRates, calls: Any = 1.0) -> Any:
    rate, hop = links.group(ranks, stride)
    return all_gather_s(payload, ranks, rate, calls * hop)


def _scatter_s(payload: Any, ranks: Any, stride: Any, links: LinkRates, calls: Any = 1.0) -> Any:
    rate, hop = links.group(ranks, stride)
    return reduce_scatter_s(payload, ranks, rate, calls * hop)
