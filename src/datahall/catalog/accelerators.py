"""Accelerators and hosts: dense peaks, memory, links, power, price, and the best rates that anybody measured.

Peaks are dense (no structured sparsity) and, for consumer cards, with fp32 accumulation.  `checked` says whether a
row's figures were read from the named source ("read") or recalled from it and not re-read ("recalled"); `figures` knows
the sources of prices and of what else stands on another page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from datahall.base.errors import UnknownName
from datahall.base.label import Fact, Label
from datahall.catalog import figures, tables

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8")
_PACKAGING = {
    "nvidia",
    "amd",
    "intel",
    "google",
    "aws",
    "huawei",
    "tpu",
    "tesla",
    "geforce",
    "instinct",
    "gpu",
    "cloud",
}


@dataclass(frozen=True, slots=True)
class AcceleratorEntry:
    """One row of the catalogue, base units; rates of links are in `links`, per device and direction.

    `memory_bytes` is what the driver shows; `scale_up_devices` the largest domain its fast link joins; `node_devices`
    and `node_scale_out_links` how many devices and network ports a usual node has; prices are USD per device and hour.
    """

    name: str
    kind: str
    vendor: str
    architecture: str
    year: int
    memory_bytes: float
    memory_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]
    measured_flops_per_s: Mapping[str, float]
    scale_up_link: str
    scale_up_devices: int
    scale_out_link: str
    node_devices: int
    node_scale_out_links: int
    power_w: float | None
    all_in_power_w: float | None
    price_low_usd_per_h: float | None
    price_mid_usd_per_h: float | None
    price_high_usd_per_h: float | None
    source: str
    date: str
    checked: str
    measured_source: str
    note: str
    price_basis: str  # "cloud price" or "cost of ownership": dollars of the two are not one

    def fact(self, figure: str) -> Fact:
        """One figure with its source: "memory_bytes", "peak.bf16", "measured.bf16", "price_mid_usd_per_h", ...

        Raises KeyError for a figure that this accelerator does not have.
        """
        group, _, precision = figure.partition(".")
        rates = {"peak": self.peak_flops_per_s, "measured": self.measured_flops_per_s}
        if group in rates:
            return self._fact(f"{group}_{precision}_flops_per_s", rates[group][precision], "FLOP/s")
        value = getattr(self, figure, None)
        if value is None:
            raise KeyError(figure)
        return self._fact(figure, value, _unit(figure))

    def _fact(self, column: str, value: float | str, unit: str) -> Fact:
        stands = figures.standing("accelerators", self.name, column)
        label = Label.ASSUMED if stands.checked == "estimate" else Label.CATALOGUE
        return Fact(value, unit, stands.source, stands.date, label)


def names() -> list[str]:
    """All accelerators and hosts of the catalogue."""
    return tables.names("accelerators")


@cache
def accelerator(name: str) -> AcceleratorEntry:
    """The accelerator called `name`; UnknownName, never another card's figures, if the catalogue lacks it."""
    row = tables.find("accelerators", name, "an accelerator")
    peaks, measured = _rates(row, "peak"), _rates(row, "measured")
    return tables.entry(AcceleratorEntry, row, peak_flops_per_s=peaks, measured_flops_per_s=measured)


@cache
def accelerator_described(text: str) -> AcceleratorEntry:
    """The accelerator that `text` names among words of packaging ("NVIDIA H100 80GB HBM3"); UnknownName otherwise.

    It is the entry that shares most words with the text, all of its own being there.  A memory size in the text must be
    the entry's, so that a card with other memory is not taken for it.
    """
    try:
        return accelerator(text)
    except UnknownName as unknown:
        sizes = [int(size) for size in re.findall(r"(\d+)\s*Gi?B?\b(?!\s*/)", text, re.IGNORECASE)]
        words = _words(re.sub(r"\([^)]*\)", "", text)) | {f"{size}gb" for size in sizes}
        best, most = "", 0
        for row in tables.rows("accelerators"):
            fits = all(0.9 < size * 1e9 / float(row["memory_bytes"]) < 1.1 for size in sizes)
            for own in map(_words, (row["name"], *row["aliases"].split())):
                if fits and most < len(own) and own <= words:
                    best, most = row["name"], len(own)
        if not best:
            raise unknown
        return accelerator(best)


def _words(text: str) -> set[str]:
    low = re.sub(r"tpu(?=\w)", "tpu ", text.lower())
    return set(re.findall(r"[a-z0-9+]+", re.sub(r"sxm\d", "sxm", low))) - _PACKAGING


def _rates(row: tables.RowText, group: str) -> Mapping[str, float]:
    cells = {precision: row.get(f"{group}_{precision}_flops_per_s", "") for precision in PRECISIONS}
    return MappingProxyType({precision: float(text) for precision, text in cells.items() if text})


def _unit(figure: str) -> str:
    for ending, unit in (("bytes_per_s", "B/s"), ("bytes", "B"), ("usd_per_h", "USD/h"), ("_w", "W")):
        if figure.endswith(ending):
            return unit
    return ""
