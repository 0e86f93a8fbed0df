"""Gradients that travel compressed or rarer (a NetworkPlan that is not plain): counts, seconds, memory.

Plain data parallelism only.  The exchange is not hidden behind arithmetic.  How many more steps a lossy or rarer
exchange needs to the same loss is not here: `network.choose` has measured factors of one small model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from datahall.case.question import Case
from datahall.compute.adapters import adapters_of, trained_parameters
from datahall.compute.anatomy import Anatomy
from datahall.compute.handed import bucket_sizes, countable
from datahall.compute.inventory import language_model_inventory
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.choose import coding_s, rounds_and_payload
from datahall.network.compress import Call, calls, codec_of
from datahall.network.plan import NetworkPlan
from datahall.virtual.habits import StackHabits
from datahall.virtual.links import LinkRates
from datahall.virtual.step_time import StepInputs

_WORD = 4  # bytes of a gradient or a parameter that travels


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The collective calls of one exchange, in one bucket, and every how many steps there is one."""

    calls: tuple[Call, ...]
    every: int

    def counts(self, steps: int) -> tuple[int, int]:
        """Calls and bytes that one worker hands over in so many steps."""
        times = steps // self.every
        return times * len(self.calls), times * sum(call.bytes for call in self.calls)


def exchanged(case: Case, plan: Plan, own: Anatomy | None = None) -> Exchanged:
    """What the workers of a data-parallel `plan` exchange, its plain exchange as well."""
    shapes = _shapes(case, plan.compute) if own is None else own.inventory.shapes
    found = list(calls(codec_of(plan.network), shapes))
    if own is not None and plan.network.local_steps == 1:
        found += [Call("broadcast", size) for size in own.buffers]
    return Exchanged(tuple(found), plan.network.local_steps)


def special(plan: Plan) -> bool:
    """Whether the plan's exchange is not the plain one that every other formula means."""
    return plan.compute.replicated and not is_plain(plan.network)


def optimisers(plan: Plan) -> int:
    """How many optimisers the workers of a data-parallel plan have that are not copies of each other."""
    return plan.compute.data if special(plan) and plan.network.local_steps > 1 else 1


def is_plain(network: NetworkPlan) -> bool:
    """Whether gradients travel whole in every step."""
    return network.compression == "none" and network.local_steps == 1


def with_buckets(
    habits: StackHabits, case: Case, compute: ComputePlan, bucket_bytes: int, own: Anatomy | None = None
) -> StackHabits:
    """`habits` with what of a plain exchange nothing can hide: the bucket that is full when the backward pass ends.

    As they are for one worker, for splits, which sum when all gradients are there, and for models whose tensors are not
    known.
    """
    if not compute.replicated or (own is None and not countable(case.model, compute)):
        return habits
    shapes = _shapes(case, compute) if own is None else own.inventory.by_readiness
    buckets = bucket_sizes(shapes, bucket_bytes)
    last = buckets[-1] / max(1, sum(buckets))
    return replace(habits, gradient_exposed=last, shard_calls=float(len(buckets)))


def with_exchange(case: Case, plan: Plan, inputs: StepInputs, own: Anatomy | None = None) -> StepInputs:
    """`inputs` with the seconds and the bytes that the plan's exchange takes; where it is plain, with its buckets."""
    if not special(plan):
        if math.isinf(float(inputs.cores)):
            return inputs  # of a cluster: fitted
        return replace(inputs, habits=with_buckets(inputs.habits, case, plan.compute, plan.network.bucket_bytes, own))
    found = exchanged(case, plan, own)
    kept = kept_bytes(plan.network, _trained(case, own))
    memory = replace(inputs.memory, reserved_bytes=inputs.memory.reserved_bytes + kept)
    return replace(inputs, gradient_s=exchange_s(case, plan, found, inputs.links, own), memory=memory)


def exchange_s(case: Case, plan: Plan, found: Exchanged, links: LinkRates, own: Anatomy | None = None) -> float:
    """Seconds of the exchange for each step: coding, rounds and bytes, over the steps between two exchanges."""
    ranks = plan.compute.data
    rate, hop = links.group(ranks, 1.0)
    rounds, payload = 0, 0.0
    for call in found.calls:
        each, sent = rounds_and_payload(call, ranks)
        rounds, payload = rounds + each, payload + sent
    card = case.site.accelerator
    memory_rate = 0.0 if card.kind == "cpu" else card.memory_bytes_per_s
    coded = coding_s(plan.network, _trained(case, own), ranks, memory_rate)
    return (coded + rounds * float(hop) + payload / float(rate)) / found.every


def kept_bytes(network: NetworkPlan, parameters: int) -> float:
    """What an exchange keeps between steps: what a codec left out; of local updates the last meeting and a momentum."""
    copies = (network.compression in ("int8", "top-k", "powersgd")) + 2 * (network.local_steps > 1)
    return float(copies * _WORD * parameters)


def _trained(case: Case, own: Anatomy | None) -> int:
    return own.parameters if own is not None else trained_parameters(case.model, adapters_of(case.application))


def _shapes(case: Case, compute: ComputePlan) -> list[tuple[int, ...]]:
    """The model's tensors; of models whose tensors are not known one by one, as many square ones."""
    adapters = adapters_of(case.application)
    if adapters is not None:
        made = [
            ((adapters.rank, inputs), (outputs, adapters.rank)) for inputs, outputs in adapters.matrices(case.model)
        ]
        return [shape for pair in made * case.model.layers for shape in pair]
    if countable(case.model, compute):
        return language_model_inventory(case.model).by_readiness
    hidden, count = case.model.hidden, case.model.parameters()
    whole = count // hidden**2
    rest = count - math.prod((whole, hidden, hidden))
    return [*[(hidden, hidden)] * whole, *([(rest,)] if rest else [])]
