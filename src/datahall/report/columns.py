"""Cells as aligned columns of plain text; the last cell of a row may be a sentence, which is wrapped below itself.

A short row (a refusal among figures) has its sentence in place of the cells that it lacks; no table of Rich can.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

Row = Sequence[str]

_GAPS = (2, 1)  # blanks between columns: the second where the first is too wide
_LEAST_SENTENCE = 24  # columns that a sentence has, however little of the terminal is left


def aligned(rows: Sequence[Row], right: Collection[int] = (), width: int | None = None) -> tuple[str, ...]:
    """The lines of `rows`, those columns right-aligned; no wider than `width` where the cells let them."""
    sizes = _sizes(rows, right)
    gap = next((gap for gap in _GAPS if width is None or _wide(rows, sizes, gap) <= width), _GAPS[-1])
    lines: list[str] = []
    for row in rows:
        free = _is_free(row, len(sizes), right)
        fixed = row[:-1] if free else row
        padded = [
            cell.rjust(size) if at in right else cell.ljust(size)
            for at, (cell, size) in enumerate(zip(fixed, sizes, strict=False))
        ]
        start = "".join(cell + " " * gap for cell in padded)
        lines += _wrapped(start, row[-1], width) if free else [start.rstrip()]
    return tuple(lines)


def fit(rows: Sequence[Row], right: Collection[int], width: int | None) -> bool:
    """Whether all columns of `rows` stand side by side within `width`; sentences are wrapped whatever it is."""
    return width is None or _wide(rows, _sizes(rows, right), _GAPS[-1]) <= width


def _sizes(rows: Sequence[Row], right: Collection[int]) -> list[int]:
    sizes = [0] * max(map(len, rows), default=0)
    for row in rows:
        for at, cell in enumerate(row[:-1] if _is_free(row, len(sizes), right) else row):
            sizes[at] = max(sizes[at], len(cell))
    return sizes


def _is_free(row: Row, columns: int, right: Collection[int]) -> bool:
    """Whether the last cell of a row is as long as it likes: a sentence, or the left-aligned end of a line."""
    return len(row) < columns or len(row) - 1 not in right


def _wide(rows: Sequence[Row], sizes: Sequence[int], gap: int) -> int:
    """Columns of the terminal that rows with every cell need, of sentences only the least."""
    last = max((min(len(row[-1]), _LEAST_SENTENCE) for row in rows if len(row) == len(sizes)), default=0)
    return sum(sizes[:-1]) + gap * (len(sizes) - 1) + last


def _wrapped(start: str, sentence: str, width: int | None) -> list[str]:
    room = None if width is None else max(_LEAST_SENTENCE, width - len(start))
    first, *rest = (textwrap.wrap(sentence, room, break_on_hyphens=False) if room else []) or [sentence]
    return [f"{start}{first}".rstrip(), *(" " * len(start) + line for line in rest)]
