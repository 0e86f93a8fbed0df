"""Rows of measurements that are not scored: why, and of which kind, so that they are counted apart.

The kind follows from the class of the error, which is chosen where the refusal is made (`published*`), never from its
words.  Only what cannot be, and what a row leaves out, is no fault of the forecast's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from datahall.base.errors import DatahallError, Impossible, Refused, UnknownName, Unstated

Kind = Literal["impossible", "unstated", "unreadable", "uncovered"]

KINDS: tuple[Kind, ...] = get_args(Kind)
MEANINGS: dict[Kind, str] = {
    "impossible": "no such run can have been",
    "unstated": "it lacks what any forecast needs",
    "unreadable": "a cell is no number, or in another unit",
    "uncovered": "datahall does not know it, or does not forecast it",
}
_UNUSABLE: tuple[Kind, ...] = ("impossible", "unstated")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that is not scored, and why."""

    key: str
    group: str
    model: str
    accelerator: str
    kind: Kind
    reason: str
    source: str = ""


def kind_of(error: DatahallError) -> Kind:
    """What kind of refusal an error makes; a cell that cannot be read is what is left."""
    if isinstance(error, Impossible):
        return "impossible"
    if isinstance(error, Unstated):
        return "unstated"
    return "uncovered" if isinstance(error, UnknownName | Refused) else "unreadable"


def counted(refused: Sequence[Refusal]) -> dict[Kind, int]:
    """How many refusals there are of each kind, of all of them."""
    found = Counter(one.kind for one in refused)
    return {kind: found[kind] for kind in KINDS}


def usable_rows(scored: int, refused: Sequence[Refusal]) -> int:
    """Rows that could be and that state what any forecast needs: of these a forecast can be asked."""
    return scored + sum(one.kind not in _UNUSABLE for one in refused)
