"""What to ask a scheduler for: nodes, devices, time and memory that will do nine times in ten.

Derived from a proposal's forecast.  Nothing is written here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from datahall.base.errors import Refused
from datahall.base.metric import Metric, percentile_90
from datahall.compute.host_memory import devices_of_a_node
from datahall.decisions.proposal import Proposal

_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks for.

    90th percentiles: `time_s` of the run, rounded up to minutes, `host_memory_bytes` of one node,
    `device_memory_bytes` of the peak on one device.  `median_s` is the forecast itself.
    """

    nodes: int
    devices_per_node: int
    cores_per_node: int
    time_s: int
    median_s: float
    host_memory_bytes: int
    device_memory_bytes: int

    @property
    def devices(self) -> int:
        """Processes in all, one a device."""
        return self.nodes * self.devices_per_node


def request_of(proposal: Proposal) -> Request:
    """The request that `proposal` needs; Refused when its forecast lacks a total time or a memory."""
    site, compute = proposal.case.site, proposal.plan.compute
    total, memory, host = (_needed(proposal, name) for name in ("total_time", "peak_memory", "host_memory"))
    per_node = int(devices_of_a_node(compute.devices, site.devices_per_node, compute.tensor, site.nodes))
    return Request(
        nodes=compute.devices // per_node,
        devices_per_node=per_node,
        cores_per_node=site.host_cores or per_node * max(1, compute.threads),
        time_s=_MINUTE_S * max(1, math.ceil(percentile_90(total) / _MINUTE_S)),
        median_s=total.value,
        host_memory_bytes=math.ceil(percentile_90(host)),
        device_memory_bytes=math.ceil(percentile_90(memory)),
    )


def _needed(proposal: Proposal, name: str) -> Metric:
    try:
        return proposal.forecast.metrics[name]
    except KeyError:
        raise Refused(f"the plan's forecast has no {name}.", hint="Plan the case again with this release.") from None
