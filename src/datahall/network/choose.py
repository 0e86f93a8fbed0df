"""Which way of exchanging gradients pays on a link: step time and time to the same loss of each, and break-evens.

Needs the link (rate, delay), the model's tensors and the seconds of a step without exchange.  How many more steps a
lossy way takes to the same loss is an input (`steps_factor`), since no formula knows it; the shipped factors were
measured on one small model and are only a start.  It does not know memory, topology or failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datahall.base.formula import formula
from datahall.network.compress import Call, Shape, calls, codec_of
from datahall.network.links_estimate import wire_bytes
from datahall.network.plan import NetworkPlan

Number = float | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinkModel:
    """A link between hosts as a collective meets it.

    `bits_per_s` counts frames; `round_s` is what one round of a collective waits beside its bytes (about one round
    trip with gloo, which asks before it sends); `acks_per_segment` the empty answers to the opposite direction's
    segments; `mtu_bytes` the largest packet; `round_bytes` the library's own notices on the wire in each round.
    """

    bits_per_s: float
    round_s: float
    acks_per_segment: float = 0.5
    mtu_bytes: float = 1500.0
    round_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way of exchanging: its plan, steps to the same loss over those of plain, seconds of coding an exchange."""

    name: str
    plan: NetworkPlan
    steps_factor: float = 1.0
    codec_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate on one link, per optimiser step: bytes on the wire one way, seconds; and seconds in plain's steps."""

    candidate: Candidate
    handed_bytes: float
    wire_bytes: float
    step_s: float
    equal_loss_s: float
    break_even_bits_per_s: float


@formula(
    equation="t = c + (e + r d + 8 W / R) / H",
    source="our own: an exchange every H steps of e seconds of coding, r rounds of d seconds and W bytes at R bit/s",
    holds="exchange not hidden behind computation (one bucket, or a link far slower than the computation)",
)
def step_s(
    compute_s: Number, codec_s: Number, rounds: Number, round_s: Number, wire: Number, bits_per_s: Number, every: Number
) -> Number:
    """Seconds of one step: computing (s), and its share of an exchange every so many steps (wire in bytes)."""
    return compute_s + (codec_s + rounds * round_s + 8.0 * wire / bits_per_s) / every


# Measured by benchmarks/slow_links.py on its model of 0.66 M parameters: steps to the same loss over those of plain,
# and seconds of coding per parameter on one core.
SHIPPED: dict[str, tuple[NetworkPlan, float, float]] = {
    "plain": (NetworkPlan(), 1.0, 0.0),
    "bf16": (NetworkPlan(compression="bf16"), 1.0, 5e-9),
    "int8": (NetworkPlan(compression="int8"), 1.0, 1.4e-8),
    "top-k 1 %": (NetworkPlan(compression="top-k"), 1.7, 1.6e-8),
    "PowerSGD r4": (NetworkPlan(compression="powersgd"), 1.0, 1.2e-8),
    "local SGD 16": (NetworkPlan(local_steps=16), 1.3, 3e-9),
    "DiLoCo 16": (NetworkPlan(local_steps=16, outer_momentum=0.5), 1.55, 8e-9),
    "DiLoCo 16 int8": (NetworkPlan(local_steps=16, outer_momentum=0.3, compression="int8"), 1.3, 1.3e-8),
}


# Bytes that coding moves for each parameter, and for each parameter and rank: what execute_compress reads and writes.
_CODEC_BYTES = {
    "none": (0.0, 0.0),
    "bf16": (20.0, 0.0),
    "int8": (76.0, 25.0),
    "top-k": (48.0, 0.3),
    "powersgd": (44.0, 0.0),
}
_LOCAL_BYTES, _MOMENTUM_BYTES = 40.0, 20.0


def shipped_candidates(parameters: int, ranks: int = 2, memory_bytes_per_s: float = 0.0) -> list[Candidate]:
    """Every way with the shipped steps (transferred from a small model) and its coding time, plain first."""
    return [
        Candidate(name, plan, steps, coding_s(plan, parameters, ranks, memory_bytes_per_s))
        for name, (plan, steps, _) in SHIPPED.items()
    ]


def coding_s(plan: NetworkPlan, parameters: int, ranks: int = 2, memory_bytes_per_s: float = 0.0) -> float:
    """Seconds of coding an exchange on a device with this memory rate; 0: on one core, by the shipped way most alike.

    An accelerator codes as fast as its memory moves the bytes; a core was measured.
    """
    if memory_bytes_per_s > 0:
        return coding_bytes(plan, parameters, ranks) / memory_bytes_per_s
    wanted = (plan.compression, plan.local_steps > 1, plan.outer_momentum > 0)

    def unlike(way: NetworkPlan) -> int:
        ways = (way.compression, way.local_steps > 1, way.outer_momentum > 0)
        return sum(weight * (one != other) for weight, one, other in zip((4, 2, 1), wanted, ways, strict=True))

    return min((unlike(way), rate) for way, _, rate in SHIPPED.values())[1] * parameters


@formula(
    equation="bytes = n (a + b k + l), with a and b of the codec, k ranks, l = 40 (60 with momentum) for local updates",
    source="our own: tensors that execute_compress reads and writes, operation by operation; plain is in the exchange",
    holds="fp32 in a device's memory, operations not fused; selecting the largest is taken for four passes",
)
def coding_bytes(plan: NetworkPlan, parameters: int, ranks: int) -> float:
    """Bytes that coding one exchange moves in a rank's memory."""
    each, for_rank = _CODEC_BYTES[plan.compression]
    local = (_LOCAL_BYTES + _MOMENTUM_BYTES * (plan.outer_momentum > 0)) * (plan.local_steps > 1)
    return parameters * (each + for_rank * ranks + local)


def options(
    shapes: Sequence[Shape], ranks: int, link: LinkModel, compute_s: float, candidates: Sequence[Candidate]
) -> tuple[Option, ...]:
    """The candidates on this link, the shortest time to the same loss first; the first candidate given is plain."""
    plain = _slope(candidates[0], shapes, ranks, link, compute_s)
    made = [_option(candidate, shapes, ranks, link, compute_s, plain) for candidate in candidates]
    return tuple(sorted(made, key=lambda option: option.equal_loss_s))


def rounds_and_wire(plan: NetworkPlan, shapes: Sequence[Shape], ranks: int, link: LinkModel) -> tuple[int, float]:
    """Rounds of one exchange and the bytes that it puts on the wire in one direction, at one rank."""
    rounds, wire = 0, 0.0
    for call in calls(codec_of(plan), shapes):
        each, payload = rounds_and_payload(call, ranks)
        rounds += each
        wire += float(wire_bytes(payload, payload, each, link.mtu_bytes, link.acks_per_segment))
        wire += each * link.round_bytes
    return rounds, wire


def rounds_and_payload(call: Call, ranks: int) -> tuple[int, float]:
    """Rounds and bytes sent by one rank when the library goes round a ring."""
    if call.kind == "all-reduce":
        return 2 * (ranks - 1), 2 * (ranks - 1) * call.bytes / ranks
    if call.kind == "broadcast":
        return 1, float(call.bytes)
    return ranks - 1, float((ranks - 1) * call.bytes)


def _option(
    candidate: Candidate,
    shapes: Sequence[Shape],
    ranks: int,
    link: LinkModel,
    compute_s: float,
    plain: tuple[float, float],
) -> Option:
    fixed, per_rate = mine = _slope(candidate, shapes, ranks, link, compute_s)
    every = candidate.plan.local_steps
    handed = sum(call.bytes for call in calls(codec_of(candidate.plan), shapes))
    equal_loss_s = fixed + per_rate / link.bits_per_s
    return Option(
        candidate,
        handed / every,
        rounds_and_wire(candidate.plan, shapes, ranks, link)[1] / every,
        equal_loss_s / candidate.steps_factor,
        equal_loss_s,
        _break_even(plain, mine),
    )


def _slope(
    candidate: Candidate, shapes: Sequence[Shape], ranks: int, link: LinkModel, compute_s: float
) -> tuple[float, float]:
    """Seconds to equal loss, per step of plain, as a + b / rate: a and b."""
    rounds, wire = rounds_and_wire(candidate.plan, shapes, ranks, link)
    every, factor = candidate.plan.local_steps, candidate.steps_factor
    fixed = float(step_s(compute_s, candidate.codec_s, rounds, link.round_s, 0.0, 1.0, every))
    return factor * fixed, factor * 8.0 * wire / every


def _break_even(plain: tuple[float, float], mine: tuple[float, float]) -> float:
    """The rate in bit/s below which `mine` is faster: infinite when it always is, 0 when it never is."""
    saved, paid = plain[1] - mine[1], mine[0] - plain[0]
    if saved <= 0:
        return 0.0
    return saved / paid if paid > 0 else float("inf")
