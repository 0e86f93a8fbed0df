"""Links: bytes/s in one direction as software can use them, and seconds for an empty message.

`bytes_per_s` is after line coding and, where a link is known to deliver less than it is sold with (Thunderbolt), what
was measured; `marketed_bytes_per_s` is what the label says.  Bits are converted once, here: 400 Gb/s is 50e9.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from datahall.catalog import tables


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """One kind of link; for those inside a node (`reach` "inside") all links of one device together."""

    name: str
    family: str
    vendor: str
    bytes_per_s: float
    marketed_bytes_per_s: float
    latency_s: float
    reach: str
    torus_dims: int  # axes of the torus that these links make; 0: none
    wraps_from: int  # devices of an axis from which its ends are joined
    source: str
    date: str
    checked: str
    note: str


def names() -> list[str]:
    """All links of the catalogue."""
    return tables.names("links")


@cache
def link(name: str) -> LinkEntry:
    """The link called `name`; UnknownName otherwise."""
    return tables.entry(LinkEntry, tables.find("links", name, "a link"))


@cache
def fastest_bytes_per_s(reach: str) -> float:
    """The fastest link with `reach` "inside" a node or domain or "between" nodes, in one direction.

    A case that states more has most likely mixed up bits and bytes.
    """
    return max(float(row["bytes_per_s"]) for row in tables.rows("links") if row["reach"] == reach)
