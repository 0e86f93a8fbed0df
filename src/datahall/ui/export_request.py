"""What to ask a scheduler for: nodes, devices, time and memory that will do nine times in ten.

Derived from a proposal's forecast.  Nothing is written here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from datahall.base.errors import Refused
from datahall.base.metric import Metric
from datahall.decisions.proposal import Proposal

# A 90 % interval ends at the 95th percentile; the 90th of a log-normal spread lies z(0.90)/z(0.95) of the way there.
_TO_P90 = 1.2816 / 1.6449
_HOST_BYTES_PER_PROCESS = 8 * 2**30  # Python, the framework, its device context and a loader: assumed, and said so
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks for.

    `time_s` is the 90th percentile of the run, rounded up to minutes; `host_memory_bytes` is per node;
    `device_memory_bytes` is the 90th percentile of the peak on one device; `median_s` is the forecast itself.
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
    """The request that `proposal` needs; Refused when its forecast lacks a total time or a peak memory."""
    site, compute = proposal.case.site, proposal.plan.compute
    total, memory = _needed(proposal, "total_time"), _needed(proposal, "peak_memory")
    per_node = _per_node(compute.devices, site.devices_per_node, compute.tensor)
    accelerated = site.accelerator.kind != "cpu"
    host_per_process = _HOST_BYTES_PER_PROCESS if accelerated else _HOST_BYTES_PER_PROCESS // 8 + percentile_90(memory)
    if proposal.plan.storage.asynchronous:
        counts = proposal.forecast.counts  # bytes of all checkpoints of the run; one of them is held at a time
        checkpoint = counts.get("checkpoint_bytes", 0) // max(1, counts.get("checkpoints", 1))
        host_per_process += checkpoint // max(1, compute.devices)
    return Request(
        nodes=compute.devices // per_node,
        devices_per_node=per_node,
        cores_per_node=site.host_cores or per_node * max(1, compute.threads),
        time_s=_MINUTE_S * max(1, math.ceil(percentile_90(total) / _MINUTE_S)),
        median_s=total.value,
        host_memory_bytes=math.ceil(per_node * host_per_process),
        device_memory_bytes=math.ceil(percentile_90(memory)),
    )


def percentile_90(metric: Metric) -> float:
    """The 90th percentile of a metric whose 90 % interval ends at the 95th, spread log-normally above its value."""
    if metric.value <= 0 or metric.high <= metric.value:
        return metric.value
    return metric.value * (metric.high / metric.value) ** _TO_P90


def _per_node(devices: int, most: int, tensor: int) -> int:
    """Processes of a node: as many on each, so that nodes times them are the plan's, and tensor ranks side by side."""
    return next(
        count
        for count in range(min(most, devices), 0, -1)
        if devices % count == 0 and (count % tensor == 0 or tensor % count == 0)
    )


def _needed(proposal: Proposal, name: str) -> Metric:
    try:
        return proposal.forecast.metrics[name]
    except KeyError:
        raise Refused(f"the plan's forecast has no {name}.", hint="Plan the case again with this release.") from None
