"""What a transfer takes, unoverlapped: closed formulas by algorithm, for one group of ranks.

Plain numbers or arrays; a group of one takes no time.  `payload_bytes` is what each rank contributes in full (the
tensor's size), `bytes_per_s` what one rank can send in one direction, `latency_s` an empty message.  What hides behind
arithmetic is decided in `virtual.step_time`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.base.formula import formula


@formula(
    equation="t = 2 (n-1) a + 2 (n-1)/n L/B",
    source="Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms, J. Parallel Distrib. Comput. 69",
    holds="equal links in a ring; no reduction cost",
)
def ring_all_reduce_s(payload_bytes: Any, ranks: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of a ring all-reduce."""
    return 2 * (ranks - 1) * latency_s + 2 * (ranks - 1) / ranks * payload_bytes / bytes_per_s


@formula(
    equation="t = 2 log2(n) a + 2 (n-1)/n L/B",
    source="Thakur, Rabenseifner, Gropp 2005, Optimization of collective communication operations in MPICH",
    holds="full bisection between partners; n a power of two, else rounded up",
)
def halving_doubling_all_reduce_s(payload_bytes: Any, ranks: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of recursive halving and doubling."""
    rounds = np.ceil(np.log2(ranks))
    return 2 * rounds * latency_s + 2 * (ranks - 1) / ranks * payload_bytes / bytes_per_s


@formula(
    equation="t = 2 log2(n) a + 2 L/B (n > 1)",
    source="Sanders, Speck, Traeff 2009, Two-tree algorithms for full bandwidth broadcast, reduction and scan",
    holds="double binary tree, pipelined; large enough messages",
)
def tree_all_reduce_s(payload_bytes: Any, ranks: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of a pipelined double binary tree."""
    several = np.minimum(ranks - 1, 1)
    return 2 * np.ceil(np.log2(ranks)) * latency_s + several * 2 * payload_bytes / bytes_per_s


@formula(
    equation="t = (n-1) a + (n-1)/n L/B",
    source="Thakur, Rabenseifner, Gropp 2005, section 4.1 (ring)",
    holds="as ring all-reduce; the gathered tensor has L bytes",
)
def all_gather_s(payload_bytes: Any, ranks: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of a ring all-gather whose result has `payload_bytes` on every rank."""
    return _once_around_s(payload_bytes, ranks, bytes_per_s, latency_s)


@formula(
    equation="t = (n-1) a + (n-1)/n L/B",
    source="Thakur, Rabenseifner, Gropp 2005, section 4.2 (ring)",
    holds="as ring all-reduce; the tensor to reduce has L bytes",
)
def reduce_scatter_s(payload_bytes: Any, ranks: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of a ring reduce-scatter of a tensor of `payload_bytes`."""
    return _once_around_s(payload_bytes, ranks, bytes_per_s, latency_s)


@formula(
    equation="t = (n-1) a + (n-1)/n L/B",
    source="Thakur, Rabenseifner, Gropp 2005, section 4.4 (pairwise exchange)",
    holds="every rank has L bytes, L/n for each other; full bisection",
)
def all_to_all_s(payload_bytes: Any, ranks: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of a pairwise all-to-all in which each rank holds `payload_bytes` to send."""
    return _once_around_s(payload_bytes, ranks, bytes_per_s, latency_s)


@formula(
    equation="t = a + L/B", source="Hockney 1994, The communication challenge for MPP", holds="one sender, one receiver"
)
def send_s(payload_bytes: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of one message."""
    return latency_s + payload_bytes / bytes_per_s


@formula(
    equation="t = RS(L, k, up) + AR(L/k, n/k, out) + AG(L, k, up)",
    source="Jia et al. 2018, Highly scalable deep learning training system (arXiv 1807.11205), section 3.3",
    holds="k ranks in each scale-up domain, k divides n; each rank has its own way out",
)
def hierarchical_all_reduce_s(
    payload_bytes: Any,
    ranks: Any,
    inside: Any,
    up_bytes_per_s: Any,
    up_latency_s: Any,
    out_bytes_per_s: Any,
    out_latency_s: Any,
) -> Any:
    """Seconds of an all-reduce in three phases; `inside` of the `ranks` sit in one domain."""
    near = 2 * all_gather_s(payload_bytes, inside, up_bytes_per_s, up_latency_s)
    return near + halving_doubling_all_reduce_s(payload_bytes / inside, ranks / inside, out_bytes_per_s, out_latency_s)


def fastest_all_reduce_s(payload_bytes: Any, ranks: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of the best of ring, tree and halving-doubling: what a tuned library comes near to."""
    ring = ring_all_reduce_s(payload_bytes, ranks, bytes_per_s, latency_s)
    tree = tree_all_reduce_s(payload_bytes, ranks, bytes_per_s, latency_s)
    return np.minimum(
        np.minimum(ring, tree), halving_doubling_all_reduce_s(payload_bytes, ranks, bytes_per_s, latency_s)
    )


def ranks_inside(ranks: Any, stride: Any, domain: Any) -> Any:
    """How many of a group's `ranks`, `stride` devices apart, share one scale-up domain of `domain` devices."""
    return np.maximum(1.0, np.minimum(ranks, np.floor(domain / stride)))


def group_bytes_per_s(
    ranks: Any,
    inside: Any,
    up_bytes_per_s: Any,
    out_bytes_per_s: Any,
    oversubscription: Any = 1.0,
    in_pod: Any = 0.0,
) -> Any:
    """What one rank of a group can send: the scale-up rate inside one domain, else the domain's ways out shared.

    A ring (or a two-level algorithm) over domains of `inside` ranks sends each byte out once per domain, over as many
    network ports as the domain has ranks of this group.  A group that reaches beyond a pod, of whose devices `in_pod`
    are its ranks (0: those of a domain), sends each byte out of the pod once, over its ranks' share of the pod's ways
    up, which are `oversubscription` times fewer than its ports.
    """
    pod = np.maximum(inside, in_pod)
    ways_up = np.where(ranks > pod, pod / oversubscription, np.inf)
    out = np.minimum(inside, ways_up) * out_bytes_per_s
    return np.where(ranks > inside, np.minimum(up_bytes_per_s, out), up_bytes_per_s)


def group_latency_s(ranks: Any, inside: Any, up_latency_s: Any, out_latency_s: Any) -> Any:
    """The mean latency of one hop of a ring over domains of `inside` ranks."""
    crossing = np.where(ranks > inside, 1.0 / inside, 0.0)
    return crossing * out_latency_s + (1.0 - crossing) * up_latency_s


def _once_around_s(payload_bytes: Any, ranks: Any, bytes_per_s: Any, latency_s: Any) -> Any:
    """Seconds of n - 1 rounds in each of which a rank sends an n-th of the payload."""
    return (ranks - 1) * latency_s + (ranks - 1) / ranks * payload_bytes / bytes_per_s
