"""The links of a site as plain numbers, from one device's view: the scale-up domain, the way out of it, and of a pod.

A pod is what the network joins at full rate (what hangs under one leaf switch, or one rail's leaves); above it the ways
up are `oversubscription` times fewer than the ports below.  A domain is a switch's (every device is every other's
neighbour) or a torus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from datahall.case.site import Site
from datahall.network import torus
from datahall.network.estimate import all_to_all_s, group_bytes_per_s, group_latency_s, ranks_inside


@dataclass(frozen=True, slots=True)
class LinkRates:
    """Bytes per second in one direction that collectives reach, and seconds of an empty message.

    Of a torus `up_bytes_per_s` is that of all links of a device together.
    """

    up_bytes_per_s: Any
    up_latency_s: Any
    domain: Any  # devices that the scale-up links join
    out_bytes_per_s: Any
    out_latency_s: Any
    oversubscription: Any = 1.0
    pod: Any = 0.0  # devices of a pod; 0: those of a domain
    torus_dims: Any = 0.0  # axes of the torus that a domain is; 0: of a switch
    wraps_from: Any = 0.0  # devices of an axis from which its ends are joined

    @classmethod
    def of(cls, site: Site) -> LinkRates:
        """The line rates of `site`."""
        up, out = site.scale_up, site.scale_out
        return cls(
            up.bytes_per_s,
            up.latency_s,
            float(site.scale_up_domain),
            out.bytes_per_s,
            out.latency_s,
            site.oversubscription,
            float(site.pod),
            float(up.torus_dims),
            float(up.wraps_from),
        )

    def scaled(self, rate: Any, latency: Any, out_rate: Any = None) -> LinkRates:
        """The same links with every rate (those out of a domain: `out_rate`) and latency multiplied."""
        return replace(
            self,
            up_bytes_per_s=self.up_bytes_per_s * rate,
            up_latency_s=self.up_latency_s * latency,
            out_bytes_per_s=self.out_bytes_per_s * (rate if out_rate is None else out_rate),
            out_latency_s=self.out_latency_s * latency,
        )

    def group(self, ranks: Any, stride: Any) -> tuple[Any, Any]:
        """Bytes per second of each of `ranks` that are `stride` devices apart, and seconds of a hop of their ring."""
        inside = ranks_inside(ranks, stride, self.domain)
        up_rate, up_hop = self.near(inside)
        rate = group_bytes_per_s(
            ranks,
            inside,
            up_rate,
            self.out_bytes_per_s,
            self.oversubscription,
            np.maximum(1.0, self.pod / stride),
        )
        return rate, group_latency_s(ranks, inside, up_hop, self.out_latency_s)

    def near(self, ranks: Any) -> tuple[Any, Any]:
        """The same of ranks that share a domain; a hop of a torus is what its few hops come to, over n - 1."""
        if not np.any(self.torus_dims):  # a search asks this of every plan
            return self.up_bytes_per_s, self.up_latency_s
        rate = torus.reached_bytes_per_s(self.up_bytes_per_s, ranks, self.domain, self.torus_dims, self.wraps_from)
        hops = torus.hops(ranks, self.domain, self.torus_dims, self.wraps_from)
        return rate, self.up_latency_s * np.where(np.asarray(ranks) > 1, hops / np.maximum(ranks - 1.0, 1.0), 1.0)

    def exchanged_near_s(self, payload_bytes: Any, ranks: Any) -> Any:
        """Seconds of an all-to-all of ranks that share a domain, each of which holds `payload_bytes` to send."""
        rate, hop = self.near(ranks)
        if not np.any(self.torus_dims):
            return all_to_all_s(payload_bytes, ranks, rate, hop)
        crowded = torus.crowding(ranks, self.domain, self.torus_dims)
        return all_to_all_s(payload_bytes, ranks, rate / crowded, hop)

    @property
    def neighbour_bytes_per_s(self) -> Any:
        """What a device sends to one neighbour of its domain: over one link of a torus."""
        return self.up_bytes_per_s / np.maximum(1.0, 2.0 * np.asarray(self.torus_dims))

    def out_share(self, crossing: Any) -> Any:
        """Of the rate out of a domain, what is left where this share of all that is sent leaves the pod."""
        return 1.0 / np.maximum(1.0, crossing * self.oversubscription)


def stack_links(several: Sequence[LinkRates]) -> LinkRates:
    """Several as arrays, element i being `several[i]`."""
    names = [field.name for field in fields(LinkRates)]
    return LinkRates(**{name: np.array([float(getattr(one, name)) for one in several]) for name in names})
