"""`datahall catalog`: what the catalogue knows, as tables, or one entry with the source of each figure.

Reads only; nothing here computes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import click

from datahall.base import units
from datahall.case.named_model import shape_of
from datahall.catalog import (
    accelerators,
    codecs,
    compatibility,
    disks,
    figures,
    links,
    models,
    rates,
    sites,
    stacks,
    tables,
)

FORMAT_VERSION = 1
TABLES = ("accelerators", "models", "links", "disks", "codecs", "sites", "rates", "compatibility", "stacks")

Entry = dict[str, Any]
_ROWS_OWN = frozenset({"source", "date", "checked", "measured_source"})


@click.command(short_help="what the catalogue knows, with the source of each figure")
@click.argument("table", required=False, type=click.Choice(TABLES))
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")
def catalog(table: str | None, name: str | None, as_json: bool) -> None:
    """List a TABLE of the catalogue, or show the entry NAME with its figures and their sources."""
    if table is None:
        _show([{"table": t, "entries": len(tables.rows(t))} for t in TABLES], as_json, "tables")
    elif table == "compatibility":
        chosen = [accelerators.accelerator(name).name] if name else accelerators.names()
        _show([_compatibility(card) for card in chosen], as_json, table)
    elif table == "stacks":
        if name and not as_json:
            _show_stack(name)
            return
        listed = [{"name": stack, **stacks.precisions(stack)} for stack in stacks.names()]
        _show([dict(row) for row in stacks.rows(name)] if name else listed, as_json, table)
    elif name is None:
        _show([_SHORT[table](entry) for entry in tables.names(table)], as_json, table)
    else:
        _show_one(_entry(table, name), as_json, table)


def _entry(table: str, name: str) -> Entry:
    readers: Mapping[str, Callable[[str], Any]] = {
        "accelerators": accelerators.accelerator,
        "models": models.model,
        "links": links.link,
        "disks": disks.disk,
        "codecs": codecs.codec,
        "sites": sites.site,
    }
    if table == "rates":
        fact = rates.rate(name)
        return {"name": name, "value": fact.value, "unit": fact.unit} | _sources(table, name)
    found = readers[table](name)
    own = _ROWS_OWN if table in figures.FIGURES else frozenset[str]()  # `_sources` has them, figure by figure
    entry: Entry = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name not in own}
    entry |= _sources(table, name)
    if table == "models":
        shape = shape_of(name)
        entry |= {"counted_parameters": shape.parameters(), "counted_active_parameters": shape.active_parameters()}
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in entry.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _sources(table: str, name: str) -> Entry:
    """Where each figure of an entry stands; nothing for tables whose rows have one source for all."""
    if table not in figures.FIGURES:
        return {}
    stated = figures.stated(table, name)
    return {"sources": {figure: dataclasses.asdict(figures.standing(table, name, figure)) for figure in stated}}


def _accelerator(name: str) -> Entry:
    card = accelerators.accelerator(name)
    best = max(card.peak_flops_per_s, key=lambda p: (p == "bf16", p == "fp16", p == "fp32"))
    return {
        "name": name,
        "memory": units.human(card.memory_bytes, "bytes"),
        "memory rate": units.human(card.memory_bytes_per_s, "bytes_per_s"),
        "dense peak": f"{units.human(card.peak_flops_per_s[best], 'flops_per_s')} {best}",
        "link": card.scale_up_link,
        "power": f"{card.power_w:.0f} W" if card.power_w else "",
        "USD/h": f"{card.price_mid_usd_per_h:.2f}" if card.price_mid_usd_per_h else "",
        "figures": card.checked,
    }


def _model(name: str) -> Entry:
    shape = shape_of(name)
    count = {
        "parameters": units.human_count(shape.parameters()),
        "for a token": units.human_count(shape.active_parameters()),
    }
    sizes = {"layers": shape.layers, "hidden": shape.hidden, "experts": shape.experts or ""}
    return {"name": name, "family": models.model(name).family, **count, **sizes}


def _link(name: str) -> Entry:
    entry = links.link(name)
    rate = units.human(entry.bytes_per_s, "bytes_per_s")
    return {
        "name": name,
        "reach": entry.reach,
        "one direction": rate,
        "empty message": units.human_time(entry.latency_s),
    }


def _disk(name: str) -> Entry:
    entry = disks.disk(name)
    write, read = (units.human(rate, "bytes_per_s") for rate in (entry.write_bytes_per_s, entry.read_bytes_per_s))
    return {"name": name, "write": write, "read": read, "one for each": entry.scope}


def _codec(name: str) -> Entry:
    entry = codecs.codec(name)
    encode, decode = (units.human(rate, "bytes_per_s") for rate in (entry.encode_bytes_per_s, entry.decode_bytes_per_s))
    return {"name": name, "ratio": f"{entry.ratio:.2f}", "a core encodes": encode, "decodes": decode}


def _site(name: str) -> Entry:
    entry = sites.site(name)
    shape = f"{entry.nodes} x {entry.devices_per_node}"
    return {"name": name, "accelerator": entry.accelerator, "nodes x devices": shape, "inside": entry.scale_up_link,
            "between": f"{entry.node_scale_out_links} x {entry.scale_out_link}"}  # fmt: skip


def _rate(name: str) -> Entry:
    fact = rates.rate(name)
    return {"name": name, "value": f"{fact.value:.3g}", "unit": fact.unit, "source": fact.source}


_SHORT: Mapping[str, Callable[[str], Entry]] = {
    "accelerators": _accelerator,
    "models": _model,
    "links": _link,
    "disks": _disk,
    "codecs": _codec,
    "sites": _site,
    "rates": _rate,
}


def _compatibility(card: str) -> Entry:
    return {"name": card} | {
        framework: " ".join(compatibility.precisions(card, framework)) or "none"
        for framework in compatibility.FRAMEWORKS
    }


def _show(entries: list[Entry], as_json: bool, table: str) -> None:
    if as_json:
        click.echo(json.dumps({"format_version": FORMAT_VERSION, "table": table, "entries": entries}, indent=1))
        return
    columns = list(entries[0])
    widths = {column: max(len(column), *(len(str(entry[column])) for entry in entries)) for column in columns}
    for line in ({column: column for column in columns}, *entries):
        click.echo("  ".join(str(line[column]).ljust(widths[column]) for column in columns).rstrip())


def _show_stack(name: str) -> None:
    """What a stack trains in, with the reason and the source of each answer wrapped beside it."""
    from datahall.report.columns import aligned

    rows = stacks.rows(name)
    click.echo(rows[0]["stack"])
    cells = [["precision", "trains", "why, and where it stands"]]
    for row in rows:
        why = f"{row['reason']}: " if row["reason"] else ""
        stands = f"{why}{row['source']} ({row['date']}, {row['checked']})"
        cells.append([row["precision"], stacks.answer(row), stands])
    for line in aligned(cells, width=shutil.get_terminal_size((100, 24)).columns):
        click.echo(line)


def _show_one(entry: Entry, as_json: bool, table: str) -> None:
    if as_json:
        click.echo(json.dumps({"format_version": FORMAT_VERSION, "table": table, "entry": entry}, indent=1))
        return
    from datahall.report.columns import aligned

    cells: list[list[str]] = []
    for key, value in entry.items():
        if key == "sources":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{inner} {_figure(number)}" for inner, number in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if value not in (None, "", ()):
            cells.append([f"{key:28}", _figure(value)])
    for line in aligned(cells, width=shutil.get_terminal_size((100, 24)).columns):
        click.echo(line)
    if "sources" in entry:
        _show_sources(entry["sources"])


def _show_sources(sources: Mapping[str, Mapping[str, str]]) -> None:
    """A paragraph a source, with the figures that stand there."""
    from datahall.report.columns import aligned

    grouped: dict[tuple[str, str, str], list[str]] = {}
    for figure, stands in sources.items():
        grouped.setdefault((stands["checked"], stands["source"], stands["date"]), []).append(figure)
    cells = [
        [checked, f"{source} ({date}): {', '.join(standing)}"] for (checked, source, date), standing in grouped.items()
    ]
    click.echo()
    for line in aligned(cells, width=shutil.get_terminal_size((100, 24)).columns):
        click.echo(line)


def _figure(value: Any) -> str:
    """A figure in full, but for very large ones that only a data sheet rounds."""
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}" if abs(value) < 1e13 else f"{value:.5g}"
    return str(value)
