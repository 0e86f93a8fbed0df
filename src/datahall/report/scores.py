"""Judged runs as text: every row and its source, the parts by group and accelerator, last the sums.

Made from the scores as JSON values (`calibrate.judge`); prints nothing.  `width` is that of a terminal, None where
nobody looks on: there each row keeps its one line, however long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

from datahall.calibrate.refusals import KINDS, MEANINGS
from datahall.report.columns import aligned, fit

Values = Mapping[str, Any]

_PARTS: Mapping[str, str] = {
    "n_scored": "scored",
    "n_refused": "refused",
    "median_ape": "median",
    "mean_ape": "mean",
    "p90_ape": "p90",
    "bias": "bias",
    "interval_coverage_share": "held",
    "median_half_width_share": "±",  # half of the interval
}
_CONDITIONS = {
    "repeated": "repeats of fitted runs",
    "familiar": "stack and accelerator fitted",
    "unseen": "stack or accelerator new",
    "shot": "rows shown, family not fitted",
    "shot-familiar": "rows shown, family fitted",
}
_NAMES = ("group", "run", "model", "accelerator", "outcome")
_FIGURES = ("measured", "forecast", "90 % interval")
_LEAST_NAME = 8  # letters of a name that stay, however narrow the terminal is


@dataclass(frozen=True, slots=True)
class Part:
    """A heading and the lines below it; a table's heading is that of its columns."""

    heading: str
    lines: tuple[str, ...]


def told(data: Values, title: str, width: int | None, *, rows: bool) -> list[Part]:
    """All parts of a judgement in the order in which they are printed; `title` is what was judged."""
    parts = [*_rows(data["rows"], width), *_sources(data["rows"], width)] if rows else []
    parts += [_by(data, "group", width), _by(data, "accelerator", width)] if data["n_rows"] else []
    parts += [_by_condition(data["by_condition"], width)] if len(data["by_condition"]) > 1 else []
    return [*parts, *_refused(data["rows"], width), _sums(data, title, width)]


def _rows(rows: Sequence[Values], width: int | None) -> list[Part]:
    """Every row whole in one table; where that is too wide, in one for each group, accelerator and unit."""
    if not rows:
        return []
    heading = [*_NAMES, *_FIGURES, "unit", "error", "held"]
    table = [heading, *map(_whole, _together(rows, lambda row: row["group"]))]
    right = {heading.index(name) for name in (*_FIGURES, "error")}
    if fit(table, right, width):
        return [_table(table, right, width)]
    return [_alike(list(alike), width) for _, alike in groupby(_together(rows, _common), key=_common)]


def _together(rows: Sequence[Values], key: Callable[[Values], Any]) -> list[Values]:
    """The rows with those of one group side by side, and within a group those of one `key`, else as they came."""
    first: dict[Any, int] = {}
    for row in rows:
        first.setdefault(row["group"], len(first))
        first.setdefault(key(row), len(first))
    return sorted(rows, key=lambda row: (first[row["group"]], first[key(row)]))


def _common(row: Values) -> tuple[str, ...]:
    """What the rows of one narrow table have in common, so that its heading says it."""
    return (row["group"], row["accelerator"], row.get("unit", ""))


def _whole(row: Values) -> list[str]:
    names = [row["group"] or "(none)", row["id"], row["model"], row["accelerator"]]
    if not row["scored"]:
        return [*names, "refused", _why(row)]
    return [*names, "scored", *_figures(row), row["unit"], _error(row), _held(row)]


def _alike(rows: Sequence[Values], width: int | None) -> Part:
    """Rows of one group, accelerator and unit, all scored or all refused; models are cut where they are too long."""
    first = rows[0]
    where = f"{first['group'] or '(none)'}, {first['accelerator'] or 'accelerator not stated'}"
    if not first["scored"]:
        refused = aligned([["", row["id"], row["model"], _why(row)] for row in rows], width=width)
        return Part(f"{where}: {len(rows)} refused", refused)
    heading = ["", "run", "model", *_FIGURES, "error", "held"]
    cells = [["", row["id"], row["model"], *_figures(row), _error(row), _held(row)] for row in rows]
    lines = _narrowed([heading, *cells], heading.index("model"), range(3, len(heading) - 1), width)
    return Part(f"{where}, in {first['unit']}: {len(rows)} scored", lines)


def _narrowed(rows: Sequence[Sequence[str]], names: int, right: Collection[int], width: int | None) -> tuple[str, ...]:
    """The lines of rows, whose `names`, a column, are cut where they are too long for the width."""
    lines = aligned(rows, right, width)
    over = 0 if width is None else max(map(len, lines)) - width
    if over <= 0:
        return lines
    most = max(_LEAST_NAME, max(len(row[names]) for row in rows) - over)
    return aligned([[*row[:names], _cut(row[names], most), *row[names + 1 :]] for row in rows], right, width)


def _figures(row: Values) -> list[str]:
    interval = f"{_digits(row['low'], 3)} to {_digits(row['high'], 3)}"
    return [_digits(row["measured"], 4), _digits(row["forecast"], 4), interval]


def _error(row: Values) -> str:
    return _signed(row["error_share"])


def _held(row: Values) -> str:
    return "yes" if row["held"] else "no"


def _why(row: Values) -> str:
    return f"{row['kind']}: {row['reason']}"


def _by(data: Values, what: str, width: int | None) -> Part:
    """Scores of each group or accelerator, those of all rows below."""
    named = {name or "(none)": scores for name, scores in data[f"by_{what}"].items()} | {"all rows": data}
    return _parts(what, _PARTS, named, width)


def _by_condition(data: Values, width: int | None) -> Part:
    """Scores of what was fitted itself and of what never was, whose errors and widths have no median in common."""
    columns = {column: word for column, word in _PARTS.items() if column != "n_refused"}
    return _parts("forecast as", columns, {_CONDITIONS[name]: scores for name, scores in data.items()}, width)


def _parts(what: str, columns: Mapping[str, str], named: Mapping[str, Values], width: int | None) -> Part:
    cells = [[name, *(_cell(column, scores.get(column)) for column in columns)] for name, scores in named.items()]
    heading, *lines = _narrowed([[what, *columns.values()], *cells], 0, range(1, len(columns) + 1), width)
    return Part(heading, tuple(lines))


def _table(rows: Sequence[Sequence[str]], right: set[int], width: int | None) -> Part:
    heading, *lines = aligned(rows, right, width)
    return Part(heading, tuple(lines))


def _refused(rows: Sequence[Values], width: int | None) -> list[Part]:
    """Refusals by kind, each with how often its reasons were given."""
    parts: list[Part] = []
    for kind in KINDS:
        reasons = Counter(row["reason"] for row in rows if row.get("kind") == kind)
        if reasons:
            lines = aligned([["", str(count), why] for why, count in reasons.most_common()], {1}, width)
            parts.append(Part(f"refused, {kind} ({MEANINGS[kind]}): {reasons.total()}", lines))
    return parts


def _sources(rows: Sequence[Values], width: int | None) -> list[Part]:
    """Where rows stand, as far as they say it, with how many of a group stand there."""
    stand = Counter((row["group"], row["source"]) for row in _together(rows, lambda row: row["group"]) if row["source"])
    if not stand:
        return []
    cells = [[group or "(none)", f"{count:,}", source] for (group, source), count in stand.items()]
    return [_table([["group", "rows", "source"], *cells], {1}, width)]


def _sums(data: Values, title: str, width: int | None) -> Part:
    """The scores of all rows together."""
    heading = f"{title}: {_counted(data['n_rows'], 'row')}, {data['n_scored']:,} scored, {data['n_refused']:,} refused"
    said = _scored(data) + (_errors(data) if data["n_scored"] else [])
    return Part(heading, aligned([["", *pair] for pair in said], width=width))


def _scored(data: Values) -> list[tuple[str, str]]:
    if not data["n_rows"]:
        return []
    said = [("coverage", f"{_percent(data['scored_share'])} of the rows are scored")]
    if data["n_refused"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in data["refused_kinds"].items() if count)
        share = data["scored_share_of_usable"]
        usable = f"{_percent(share)} of the {data['n_usable']:,}" if data["n_usable"] else "there is no row"
        said += [("", f"{usable} neither impossible nor unstated"), ("refused", kinds)]
    return said


def _errors(data: Values) -> list[tuple[str, str]]:
    """Errors, intervals and picks, of which there are some."""
    best = f", quality {data['macro_quality']}" if data["macro_quality"] else ""
    held, half = _percent(data["interval_coverage_share"]), _percent(data["median_half_width_share"])
    said = [
        ("absolute error", _off(data, "")),
        ("macro-averaged", f"{_off(data, 'macro_')} (over groups{best})"),
        ("bias", f"{_signed(data['bias'])} (median error of the step's time: below 0 is too fast)"),
        ("90 % intervals", f"{held} held, median half-width {half}"),
        ("interval score", f"{data['interval_score']:.3f} of the measurement: width, and what misses cost"),
    ]
    if data["regret_share"] is not None:
        regret = f"{_percent(data['regret_share'])} slower than the best measured plan"
        said.append(("choice regret", f"{regret}, mean of {_counted(data['n_choices'], 'pick')}"))
        if 0 < data["n_choices_quality_a"] < data["n_choices"]:
            best = f"{_percent(data['regret_share_quality_a'])} over the {data['n_choices_quality_a']}"
            said.append(("", f"{best} between rows of quality A alone"))
    if data["scaling"] is not None:
        said += _kept(data["scaling"])
    return said


def _off(data: Values, prefix: str) -> str:
    names = {"median": "median_ape", "mean": "mean_ape", "p90": "p90_ape"}
    return ", ".join(f"{word} {_percent(data[prefix + name])}" for word, name in names.items())


def _kept(kept: Values) -> list[tuple[str, str]]:
    """How far off is what a device keeps of its rate among more devices, and how far to say that it keeps all."""
    off, linear = (
        f"median {_percent(kept[f'{what}median_ape'])}, mean {_percent(kept[f'{what}mean_ape'])}"
        for what in ("", "linear_")
    )
    return [
        ("scaling", f"rate kept on more devices off by {off}"),
        ("", f"(linear: off by {linear}; {_counted(kept['n_pairs'], 'pair')} of runs)"),
    ]


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if column.startswith("n_"):
        return f"{value:,}"
    return _signed(value) if column == "bias" else _percent(value)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _signed(share: float) -> str:
    text = f"{100 * share:+.1f} %"
    return text[1:] if text[1:] == "0.0 %" else text


def _digits(value: float, digits: int) -> str:
    """`value` with so many significant digits and never with an exponent."""
    return f"{Decimal(f'{value:.{digits}g}'):f}"


def _cut(name: str, most: int) -> str:
    """`name` in at most so many letters, without its middle: a model's size stands at the end."""
    if len(name) <= most:
        return name
    end = most // 2
    return f"{name[: most - 1 - end]}…{name[-end:]}"
