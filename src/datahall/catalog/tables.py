"""Reading the catalogue's CSV files, and finding a row by name or refusing with the nearest names.

Fast on purpose (the csv module, cached): `datahall plan` reads it at every start.  Nothing here knows what a column
means.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from datahall.base.errors import UnknownName

RowText = Mapping[str, str]

_VENDORS = ("nvidia", "amd", "intel", "google", "aws", "huawei")


@cache
def rows(table: str) -> tuple[RowText, ...]:
    """The rows of `data/<table>.csv`, every cell as text."""
    file = resources.files("datahall.catalog") / "data" / f"{table}.csv"
    return tuple(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def find(table: str, name: str, what: str) -> RowText:
    """The row of `table` that is called `name` (or has it among its aliases); UnknownName with neighbours otherwise.

    Case, spaces, hyphens and a vendor's name in front do not matter.
    """
    row = _index(table).get(_key(name))
    if row is None:
        raise UnknownName(f'"{name}" is not {what} that the catalogue has.', hint=_neighbours(table, name))
    return row


def names(table: str) -> list[str]:
    """The names of a table, in its order."""
    return [row["name"] for row in rows(table)]


def number(row: RowText, column: str) -> float | None:
    """The number in a cell, or None where the cell is empty."""
    text = row[column]
    return float(text) if text else None


def yes(row: RowText, column: str) -> bool:
    """Whether a cell says yes; empty is no."""
    return row[column] == "yes"


@cache
def _index(table: str) -> dict[str, RowText]:
    index: dict[str, RowText] = {}
    for row in rows(table):
        for name in (row["name"], *row.get("aliases", "").split()):
            index.setdefault(_key(name), row)
    return index


def _key(name: str) -> str:
    key = re.sub(r"[^a-z0-9.+]", "", name.lower())
    for vendor in _VENDORS:
        key = key.removeprefix(vendor)
    return key


def _neighbours(table: str, name: str) -> str:
    known = {_key(known_name): known_name for known_name in names(table)}
    known |= {key: row["name"] for key, row in _index(table).items() if key not in known}
    wanted = _key(name)
    near = difflib.get_close_matches(wanted, known, n=6, cutoff=0.6)
    near += [key for key in known if wanted and (wanted in key or key in wanted) and key not in near]
    close: Sequence[str] = list(dict.fromkeys(known[key] for key in near))[:4]
    listing = f"`datahall catalog {table}` lists all {len(names(table))}."
    return f"Did you mean {' or '.join(close)}? {listing}" if close else listing
