"""Where a single figure stands: its page, the day of it, and whether the page was read, recalled or nobody's.

A row of a table names one source.  What another page says (a price, a latency), or nobody but us (an estimate), stands
in `data/figures.csv`, by table, name ("*": every row) and column.  Nothing here knows what a figure means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from datahall.catalog import tables

KINDS: Final = ("read", "recalled", "estimate")

_RATES = tuple(f"peak_{precision}_flops_per_s" for precision in ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8"))
_MEASURED = ("measured_bf16_flops_per_s", "measured_fp8_flops_per_s")
FIGURES: Final[Mapping[str, tuple[str, ...]]] = {
    "accelerators": (
        "memory_bytes", "memory_bytes_per_s", *_RATES, "scale_up_devices", "node_devices", "node_scale_out_links",
        "power_w", "all_in_power_w", "price_low_usd_per_h", "price_mid_usd_per_h", "price_high_usd_per_h", *_MEASURED,
    ),
    "links": ("bytes_per_s", "marketed_bytes_per_s", "latency_s"),
    "disks": ("write_bytes_per_s", "read_bytes_per_s", "latency_s", "capacity_bytes", "price_usd_per_gb_month"),
    "sites": ("nodes", "devices_per_node", "scale_up_devices", "node_scale_out_links", "oversubscription",
              "host_cores", "host_memory_bytes", "pue"),
    "rates": ("value",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one figure stands; `checked` is one of `KINDS`, `date` the day that the page was read or the guess made.

    The source of an estimate says how it was made.
    """

    checked: str
    source: str
    date: str


def stated(table: str, name: str) -> list[str]:
    """The figures that the row `name` of `table` has; 0 is "not stated" there."""
    row = tables.find(table, name, "an entry")
    return [figure for figure in FIGURES[table] if row[figure] not in {"", "0"}]


def standing(table: str, name: str, figure: str) -> Standing:
    """Where `figure` of the row `name` stands; UnknownName if the table has no such row."""
    row = tables.find(table, name, "an entry")
    single = _single()
    found = single.get((table, row["name"], figure)) or single.get((table, "*", figure))
    if found is None and figure in _MEASURED:
        return Standing("read", row["measured_source"], row["measured_date"])
    return found or Standing(row["checked"], row["source"], row["date"])


@cache
def _single() -> Mapping[tuple[str, str, str], Standing]:
    return {
        (row["table"], row["name"], figure): Standing(row["checked"], row["source"], row["date"])
        for row in tables.rows("figures")
        for figure in row["figures"].split()
    }
