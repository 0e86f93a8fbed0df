"""Places for checkpoints: rates of one writer and one reader, sustained, and what they cost.

Orders of magnitude of a class of device, not of one product: `datahall probe` measures the real one.  A row's source is
that of its capacity; `figures` has those of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from datahall.catalog import tables


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """One kind of disk or store; `scope` is node (every node has one) or site (all nodes share one)."""

    name: str
    write_bytes_per_s: float
    read_bytes_per_s: float
    latency_s: float
    capacity_bytes: float
    scope: str
    price_usd_per_gb_month: float | None
    source: str
    date: str
    checked: str
    note: str


def names() -> list[str]:
    """All disks of the catalogue."""
    return tables.names("disks")


@cache
def disk(name: str) -> DiskEntry:
    """The disk called `name`; UnknownName otherwise."""
    return tables.entry(DiskEntry, tables.find("disks", name, "a disk"))
