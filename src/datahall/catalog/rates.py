"""Rates that belong to no device: how often jobs are interrupted, what electricity costs and emits, PUE.

Each is one published figure; its note says how it was derived.
"""

from __future__ import annotations

from datahall.base.label import Fact
from datahall.catalog import tables


def names() -> list[str]:
    """All rates of the catalogue."""
    return tables.names("rates")


def rate(name: str) -> Fact:
    """The rate called `name`, in the base unit that it states; UnknownName otherwise."""
    row = tables.find("rates", name, "a rate")
    return Fact(float(row["value"]), row["unit"], row["source"], row["date"])
