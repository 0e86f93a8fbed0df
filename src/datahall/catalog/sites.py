"""Sites that have a name: a usual node or pod of an accelerator, its links, its disk, its topology.

A site here is one unit (a DGX, a rack, a pod); a case says how many nodes of it are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from datahall.catalog import tables


@dataclass(frozen=True, slots=True)
class SiteEntry:
    """One named site; links and disk by their catalogue names.  `nodes` is what it has unless a case says otherwise."""

    name: str
    accelerator: str
    nodes: int
    devices_per_node: int
    scale_up_link: str
    scale_up_devices: int
    scale_out_link: str
    node_scale_out_links: int
    disk: str
    topology: str
    oversubscription: float
    pod_devices: int  # that the network joins at full rate; 0: as the topology has it
    host_cores: int
    host_memory_bytes: float  # 0: not stated
    pue: float
    source: str
    date: str
    checked: str
    note: str


def names() -> list[str]:
    """All sites of the catalogue."""
    return tables.names("sites")


@cache
def site(name: str) -> SiteEntry:
    """The site called `name`; UnknownName otherwise."""
    return tables.entry(SiteEntry, tables.find("sites", name, "a site"))
