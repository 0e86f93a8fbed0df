"""What a transfer and an all-reduce schedule take: latency, bandwidth, and what sharing a host costs.

Plain numbers or NumPy arrays in, the same out; nothing here looks at a machine or knows a name.  The closed forms for
NCCL on clusters are in `estimate`; here a schedule is priced by what it says, send by send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datahall.base.formula import formula
from datahall.network.algorithms import Schedule, chunk_bounds, messages

Number = float | NDArray[np.float64]

ETHERNET_HEADER_BYTES = 14  # as interface counters see a frame: no preamble, checksum or gap
IP_TCP_HEADER_BYTES = 20 + 20 + 12  # IPv4, TCP, time stamps (Linux default)


@dataclass(frozen=True, slots=True)
class Load:
    """What one all-reduce puts on the machines, as exact counts.

    Bytes of a round are those of its busiest rank (`inside_bytes`, within a host) and of the busiest host's link
    (`between_bytes`); `messages` and `moved_bytes` are sums over all ranks of the busiest host, which its cores share.
    """

    inside_rounds: int
    between_rounds: int
    inside_bytes: int
    between_bytes: int
    messages: int
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class LinkConstants:
    """Fitted or probed constants of the links: seconds a round, seconds a message on the host's cores, bytes/s."""

    inside_round_s: float
    between_round_s: float
    message_s: float
    inside_bytes_per_s: float
    between_bytes_per_s: float
    host_bytes_per_s: float


def load(plan: Schedule, elements: int, host_of: Sequence[int], bytes_per_element: int = 4) -> Load:
    """Count what `plan` puts on hosts and links when rank r runs on host `host_of[r]`."""
    bounds = chunk_bounds(elements, plan.chunks)
    rounds: dict[int, list[tuple[int, int, int]]] = {}
    for message in messages(plan):
        size = (bounds[message.last + 1] - bounds[message.first]) * bytes_per_element
        rounds.setdefault(message.step, []).append((message.source, message.target, size))
    inside_rounds = between_rounds = inside_bytes = between_bytes = 0
    handled: dict[int, list[int]] = {host: [0, 0] for host in host_of}
    for sent in rounds.values():
        inner = [entry for entry in sent if host_of[entry[0]] == host_of[entry[1]]]
        outer = [(host_of[source], host_of[target], size) for source, target, size in sent]
        outer = [entry for entry in outer if entry[0] != entry[1]]
        between_rounds += bool(outer)
        inside_rounds += not outer
        inside_bytes += _busiest(inner)
        between_bytes += _busiest(outer)
        for source, target, size in sent:
            for host in {host_of[source], host_of[target]}:
                handled[host][0] += 1
                handled[host][1] += size
    busiest = max(handled.values(), key=lambda entry: entry[1], default=[0, 0])
    return Load(inside_rounds, between_rounds, inside_bytes, between_bytes, busiest[0], busiest[1])


@formula(
    equation="T = D + 8 L / R, L in bytes, R in bit/s; of n transfers that share a link each has R / n",
    source="textbook store-and-forward time of one hop; hops add their own D and, unless cut through, L / R",
    holds="messages much longer than a packet, no loss",
)
def transfer_s(
    size_bytes: Number, bits_per_s: Number, delay_s: Number, sharing: Number = 1.0, hops: Number = 1.0
) -> Number:
    """Seconds for one message over a path of `hops` cut-through links, `sharing` transfers sharing the narrowest."""
    return hops * delay_s + 8.0 * size_bytes * sharing / bits_per_s


@formula(
    equation="T = a_i r_i + a_b r_b + c m + B_i / w_i + B_b / w_b + V / w_h",
    source="the latency-bandwidth model (Hockney 1994; Thakur, Rabenseifner and Gropp 2005) summed over the rounds of "
    "the schedule, with our own term V / w_h for the cores that the ranks of one host share",
    holds="ranks that start together; constants fitted on the same hosts",
)
def all_reduce_s(
    inside_rounds: Number,
    between_rounds: Number,
    messages: Number,
    inside_bytes: Number,
    between_bytes: Number,
    moved_bytes: Number,
    inside_round_s: Number,
    between_round_s: Number,
    message_s: Number,
    inside_bytes_per_s: Number,
    between_bytes_per_s: Number,
    host_bytes_per_s: Number,
) -> Number:
    """Seconds for one all-reduce with this load (counts, bytes) on links with these constants (seconds, bytes/s)."""
    return (
        inside_rounds * inside_round_s
        + between_rounds * between_round_s
        + messages * message_s
        + inside_bytes / inside_bytes_per_s
        + between_bytes / between_bytes_per_s
        + moved_bytes / host_bytes_per_s
    )


def schedule_s(counts: Load, constants: LinkConstants) -> float:
    """`all_reduce_s` of one schedule's load."""
    return float(
        all_reduce_s(
            counts.inside_rounds,
            counts.between_rounds,
            counts.messages,
            counts.inside_bytes,
            counts.between_bytes,
            counts.moved_bytes,
            constants.inside_round_s,
            constants.between_round_s,
            constants.message_s,
            constants.inside_bytes_per_s,
            constants.between_bytes_per_s,
            constants.host_bytes_per_s,
        )
    )


@formula(
    equation="W = P + h (P / m + M / 2) + a h P' / m",
    source="Ethernet, IPv4 and TCP headers (RFC 791, 793, 7323); a empty answers to each segment of the other "
    "direction's payload P'",
    holds="segmentation off-loads off or counted as sent; payload in messages longer than a segment, no loss",
)
def wire_bytes(
    payload_bytes: Number,
    opposite_bytes: Number,
    messages: Number,
    mtu_bytes: Number = 1500.0,
    acks_per_segment: Number = 0.5,
) -> Number:
    """Bytes that an interface counter shows in one direction for TCP payload sent, and payload received meanwhile.

    `messages` adds on average half a segment's header for each message's last, shorter segment;
    `acks_per_segment` is a property of the receiver and of its off-loads: probe it.
    """
    header = ETHERNET_HEADER_BYTES + IP_TCP_HEADER_BYTES
    segment = mtu_bytes - IP_TCP_HEADER_BYTES
    segments = payload_bytes / segment + 0.5 * messages
    return payload_bytes + header * segments + header * acks_per_segment * opposite_bytes / segment


@formula(
    equation="R = 8 B / T_window",
    source="definition: the transfer is hidden when it ends before the computation that overlaps it",
    holds="one transfer at a time on the link; add the latency of its rounds to the window's loss",
)
def smallest_rate_bits_per_s(step_bytes: Number, overlap_window_s: Number, latency_s: Number = 0.0) -> Number:
    """The slowest link that still hides `step_bytes` behind a window of computation; infinite if nothing fits."""
    window = np.asarray(overlap_window_s, dtype=np.float64) - np.asarray(latency_s, dtype=np.float64)
    with np.errstate(divide="ignore"):
        rate = np.where(window > 0, 8.0 * np.asarray(step_bytes, dtype=np.float64) / np.maximum(window, 0.0), np.inf)
    return rate if rate.ndim else float(rate)


def _busiest(sent: Sequence[tuple[int, int, int]]) -> int:
    """The largest number of bytes that one place sends or receives (links carry both directions at once)."""
    out: dict[int, int] = {}
    into: dict[int, int] = {}
    for source, target, size in sent:
        out[source] = out.get(source, 0) + size
        into[target] = into.get(target, 0) + size
    return max([*out.values(), *into.values()], default=0)
