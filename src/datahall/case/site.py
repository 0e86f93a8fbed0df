"""A site as plain numbers: accelerators, the links inside and between nodes, disks, prices, failures.

Base units throughout; where a number came from stands in `provenance`, by field path.  No catalogue look-ups here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from datahall.base.label import Label


def _frozen(mapping: Mapping[str, Label]) -> Mapping[str, Label]:
    return MappingProxyType(dict(mapping))


_LEAF_PORTS = 64  # of the switches that are sold for such networks (InfiniBand NDR, 51.2 Tb/s Ethernet at 800G)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device.  `peak_flops_per_s` maps a precision (fp32, tf32, bf16, fp16, fp8, fp4, int8) to its dense peak.

    `measured_flops_per_s` maps a precision to the best rate that anybody measured for a matrix product, where known.
    """

    name: str
    kind: str  # gpu | tpu | cpu | other
    vendor: str
    memory_bytes: float
    memory_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]
    measured_flops_per_s: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    power_w: float = 0.0  # of the board; of a whole host for a CPU
    price_usd_per_h: float = 0.0
    architecture: str = ""  # as the compatibility table calls it
    all_in_power_w: float = 0.0  # with its share of host, network and fans; 0: not known
    price_low_usd_per_h: float = 0.0
    price_high_usd_per_h: float = 0.0
    price_basis: str = ""  # as the catalogue calls it; "" of a price that the case states

    @property
    def one_process_a_host(self) -> bool:
        """Whether a program takes all devices of its host, as JAX and SPMD in PyTorch/XLA do on TPUs."""
        return self.kind == "tpu"


@dataclass(frozen=True, slots=True)
class Link:
    """A link as one device sees it: bytes/s in one direction, seconds for an empty message.

    Of a torus the bytes/s are those of all links of a device; its axes close to rings from `wraps_from` devices.
    """

    bytes_per_s: float
    latency_s: float
    torus_dims: int = 0  # 0: no torus
    wraps_from: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """A place for checkpoints: bytes/s through the real writer and reader, and seconds for an empty file.

    `shared` disks are one for the whole site (NFS, an object store); others are one in each node.
    """

    write_bytes_per_s: float
    read_bytes_per_s: float
    latency_s: float
    capacity_bytes: float = float("inf")
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """Devices in scale-up domains (NVLink, ICI, shared memory) joined by a scale-out network.

    `scale_out` is per device.  `pod_devices` are what the network joins at full rate (0: as its `topology` has it); the
    ways up from a pod are `oversubscription` times fewer than its ports.  `failures_per_device_s` is the rate, per
    second, at which one device interrupts a job.
    """

    name: str
    accelerator: Accelerator
    nodes: int
    devices_per_node: int
    scale_up_domain: int
    scale_up: Link
    scale_out: Link
    disk: Disk
    topology: str = "switch"
    oversubscription: float = 1.0
    pod_devices: int = 0
    host_cores: int = 0
    host_memory_bytes: float = 0.0  # of a node beside its devices'; 0: not stated
    pue: float = 1.0
    failures_per_device_s: float = 0.0
    stack: str = ""
    provenance: Mapping[str, Label] = field(default_factory=lambda: _frozen({}))

    @property
    def devices(self) -> int:
        """All devices of the site."""
        return self.nodes * self.devices_per_node

    @property
    def pod(self) -> int:
        """Devices that the network joins at full rate: stated, or what usual leaf switches of the topology reach.

        Of a leaf's ports o / (o + 1) go down.  In a fat tree each device has one of them; in a rail network each node
        has one, on as many leaves as it has devices.  Any other network counts by the node.
        """
        if self.pod_devices:
            return self.pod_devices
        down = int(_LEAF_PORTS * self.oversubscription / (self.oversubscription + 1.0))
        reach = {"rail": down * self.devices_per_node, "fat-tree": down}.get(self.topology, 0)
        return max(self.scale_up_domain, reach - reach % self.devices_per_node)

    def label(self, path: str) -> Label:
        """The label of the number at `path` ("accelerator", "scale_out", ...); `catalogue` where none is stated."""
        return self.provenance.get(path, Label.CATALOGUE)
