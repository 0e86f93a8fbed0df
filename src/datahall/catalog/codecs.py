"""Codecs on a training run's state (fp32 weights and moments): how far it shrinks, and how fast one core does it.

Measured through the real writer on one machine; `datahall probe` and `datahall store advise` measure the real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from datahall.catalog import tables


@dataclass(frozen=True, slots=True)
class CodecEntry:
    """Raw bytes over stored bytes, and raw bytes/s of one core in each direction."""

    name: str
    ratio: float
    encode_bytes_per_s: float
    decode_bytes_per_s: float
    source: str
    date: str
    checked: str
    note: str


def names() -> list[str]:
    """All codecs of the catalogue."""
    return tables.names("codecs")


@cache
def codec(name: str) -> CodecEntry:
    """The codec called `name`; UnknownName otherwise."""
    return tables.entry(CodecEntry, tables.find("codecs", name, "a codec"))
