"""The links of a site as plain numbers, from one device's view: the scale-up domain, the way out of it, and of a pod.

A pod is what the network joins at full rate (what hangs under one leaf switch, or one rail's leaves); above it the ways
up are `oversubscription` times fewer than the ports below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datahall.network.estimate import group_bytes_per_s, group_latency_s, ranks_inside


@dataclass(frozen=True, slots=True)
class LinkRates:
    """Bytes per second in one direction that collectives reach, and seconds of an empty message."""

    up_bytes_per_s: Any
    up_latency_s: Any
    domain: Any  # devices that the scale-up links join
    out_bytes_per_s: Any
    out_latency_s: Any
    oversubscription: Any = 1.0
    pod: Any = 0.0  # devices of a pod; 0: those of a domain

    def group(self, ranks: Any, stride: Any) -> tuple[Any, Any]:
        """Bytes per second of each of `ranks` that are `stride` devices apart, and seconds of a hop of their ring."""
        inside = ranks_inside(ranks, stride, self.domain)
        rate = group_bytes_per_s(
            ranks,
            inside,
            self.up_bytes_per_s,
            self.out_bytes_per_s,
            self.oversubscription,
            np.maximum(1.0, self.pod / stride),
        )
        return rate, group_latency_s(ranks, inside, self.up_latency_s, self.out_latency_s)

    def out_share(self, crossing: Any) -> Any:
        """Of the rate out of a domain, what is left where this share of all that is sent leaves the pod."""
        return 1.0 / np.maximum(1.0, crossing * self.oversubscription)
