"""Which training stack trains in which precision, and from which release: `data/stacks.csv`, each row with its source.

`compatibility` says what an accelerator computes in under a framework; a stack of that framework may have no recipe for
it.  A stack that the table does not name, or of which it does not know, is answered for by its framework.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Mapping
from functools import cache

from datahall.base.errors import Incompatible, UnknownName
from datahall.catalog import compatibility, stack_names, tables

PRECISIONS = ("fp16", "bf16", "fp8", "fp4", "int8")  # what the table is asked for; everything trains in fp32
_NAMED = 4  # stacks that a refusal names
_FIRST_YEAR = 19  # releases from here on are years and months (26.04, 2025.11), before it numbers (0.15)
_MX = r"(?<![a-z0-9])mx(?![a-z0-9])|mxfp8"  # a recipe of fp8, written beside a stack or for a precision
_MX_ARCHITECTURES = ("blackwell", "blackwell-ultra", "cdna4")


def named(text: str) -> str:
    """The stack of the table that `text` names ("llm-foundry (Composer)"); empty where it names none of them."""
    return found.name if (found := stack_names.stack_in(text)) else ""


def names() -> list[str]:
    """The stacks of the table, in its order."""
    return list(dict.fromkeys(stack for stack, _ in _table()))


def precisions(stack: str) -> dict[str, str]:
    """What the table says of each precision under one of its stacks: yes, no, unknown, or from which releases."""
    return {precision: answer(_table()[stack, precision]) for precision in PRECISIONS}


def answer(row: tables.RowText) -> str:
    """What a row of the table says: yes, no, unknown, or from which releases, a month as one ("September 2025")."""
    return f"from {' or '.join(map(_written, row['release'].split()))}" if row["release"] else row["trains"]


def rows(text: str) -> list[tables.RowText]:
    """The rows of the stack that `text` names; UnknownName where the table has none of it."""
    found = named(text)
    if not found:
        hint = f"It has {', '.join(names())}."
        raise UnknownName(f'"{text}" is not a training stack that the catalogue has.', hint=hint)
    return [row for (stack, _), row in _table().items() if stack == found]


def check_trained(precision: str, stack: str, kind: str) -> None:
    """Return if `stack`, as people write it, trains in `precision` on an accelerator of `kind`; else Incompatible.

    The reason and the stacks that do are in the error.  A stack that is not named, or of which nothing is known, is
    answered for by its framework.
    """
    found = stack_names.stack_in(stack)
    name = found.name if found else ""
    row = _table().get((name, precision))
    if row is None or row["trains"] == "unknown":
        compatibility.check_trained(precision, compatibility.framework_of(stack, kind))
        return
    older = _older(_release(found.pattern if found else "", stack), row["release"])
    if row["trains"] == "yes" and not older:
        return
    since = f", which {name} has from {_written(older)} on" if older else ""
    others = f"{_others(precision, name, kind)} `datahall catalog stacks` lists all."
    raise Incompatible(
        f"{stack.strip()} does not train in {precision}{since}: {row['reason']}.",
        hint=f"{name} trains in {', '.join(_trained(name, precision))}. {others}",
    )


def block_scaled(text: str) -> bool:
    """Whether `text` names MXFP8, fp8 with a scale for each block of 32 numbers ("Megatron-Bridge 26.04, MXFP8")."""
    return bool(re.search(_MX, text.lower()))


def check_block_scaled(precision: str, text: str, accelerator: str, architecture: str) -> None:
    """Raise Incompatible if fp8 is meant as the MXFP8 that `text` names and the architecture has no products of blocks.

    Source: Transformer Engine's matrix of data types and hardware (Blackwell of data centres, compute capability 10),
    AMD's CDNA 4 instruction set.  An unknown architecture (empty) passes.
    """
    if precision == "fp8" and block_scaled(text) and architecture and architecture not in _MX_ARCHITECTURES:
        raise Incompatible(
            f"{accelerator} does not compute in MXFP8: products of blocks with a scale each are those of data centres' "
            "Blackwell and of CDNA 4.",
            hint="Leave MXFP8 out: fp8 with a scale for each tensor, where the accelerator has it.",
        )


def trains(precision: str, stack: str, kind: str) -> bool:
    """Whether `check_trained` would pass."""
    try:
        check_trained(precision, stack, kind)
    except Incompatible:
        return False
    return True


def unasked(peaks: Iterable[str], stack: str, kind: str) -> str:
    """The precision that training takes unless it is told: of those with a peak the best that the stack trains in.

    Empty where the accelerator has none of them.
    """
    there = [name for name in compatibility.UNASKED if name in peaks]
    return next((name for name in there if trains(name, stack, kind)), there[0] if there else "")


def _release(pattern: str, text: str) -> tuple[int, ...]:
    """The release that stands right after a stack's name, or a year; empty where none does."""
    found = re.search(rf"(?:{pattern})[^\d,;+()]*(\d+(?:\.\d+)+|20\d\d\b)", text.lower())
    return _numbers(found[1]) if found else ()


def _older(release: tuple[int, ...], since: str) -> str:
    """Which of the releases in `since` comes after `release`; empty where none does, or they count differently."""
    for text in since.split():
        first = _numbers(text)
        alike = bool(release) and (release[0] >= _FIRST_YEAR) == (first[0] >= _FIRST_YEAR)
        if alike and release < first[: len(release)]:
            return text
    return ""


def _written(release: str) -> str:
    """A release as people write it: one that the table gives as a year and a month is no version."""
    first, _, month = release.partition(".")
    return f"{calendar.month_name[int(month)]} {first}" if int(first) >= 2000 and month else release


def _numbers(text: str) -> tuple[int, ...]:
    first, *rest = (int(part) for part in text.split("."))
    return (first - 2000 if first >= 2000 else first, *rest)


def _trained(name: str, refused: str) -> list[str]:
    return [p for p in PRECISIONS if p != refused and _table()[name, p]["trains"] == "yes"]


def _others(precision: str, name: str, kind: str) -> str:
    """A sentence that names stacks which train in a precision, those of the same framework before others."""
    having = [stack for stack, of in _table() if of == precision and _table()[stack, of]["trains"] == "yes"]
    framework = compatibility.framework_of(name, kind)
    alike = [stack for stack in having if stack != name and compatibility.framework_of(stack, kind) == framework]
    chosen = (alike or [stack for stack in having if stack != name])[:_NAMED]
    told = (f"{stack} ({said})" if (said := precisions(stack)[precision]) != "yes" else stack for stack in chosen)
    return f"{precision} is trained in by {', '.join(told)}: name one as `site.stack`." if chosen else ""


@cache
def _table() -> Mapping[tuple[str, str], tables.RowText]:
    return {(row["stack"], row["precision"]): row for row in tables.rows("stacks")}
