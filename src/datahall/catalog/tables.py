"""Reading the catalogue's CSV files: a row found by name, or refused with the nearest names, as an entry of its kind.

Fast on purpose (the csv module, cached): `datahall plan` reads it at every start.  Nothing here knows what a column
means; its entry's annotation says how it is read.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar

from datahall.base.errors import UnknownName

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowText = Mapping[str, str]
E = TypeVar("E", bound="DataclassInstance")

_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "str": str,
    "int": int,
    "float": float,
    "float | None": lambda text: float(text) if text else None,
}

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


def entry(kind: type[E], row: RowText, **made: Any) -> E:
    """A frozen dataclass of `kind` from `row`: a field a column, read as the field is annotated; `made` goes before.

    An empty cell is None where the field may be None, and a ValueError in any other number.
    """
    read = {field.name: _READERS[str(field.type)](row[field.name]) for field in fields(kind) if field.name not in made}
    return kind(**read, **made)


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
