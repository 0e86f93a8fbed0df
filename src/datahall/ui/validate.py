"""`datahall validate`: forecasts laid beside measured training runs, from a file or those that ship, and scored.

Reading, forecasting and scoring are `calibrate`'s; here the answer is printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from datahall.calibrate.judge import Judgement

_COLUMNS: Mapping[str, str] = {
    "n_scored": "scored",
    "n_refused": "refused",
    "median_ape": "median",
    "mean_ape": "mean",
    "p90_ape": "90th pct",
    "bias": "bias",
    "interval_coverage_share": "in interval",
    "median_half_width_share": "half-width",
}


@click.command(short_help="forecasts beside measured runs, scored")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--calibrate-with",
    "few",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rows measured on the same stack (at most ten of each group are used) that correct the forecasts.",
)
@click.option(
    "--leave-out",
    type=click.Choice(["group", "accelerator"]),
    help="Forecast each group or accelerator from a fit to all others, instead of with the shipped fit.",
)
@click.option(
    "--unseen",
    is_flag=True,
    help="Score the shipped runs that were collected after the fit; nothing is fitted to them.",
)
@click.option("--rows", "each", is_flag=True, help="Also print every row.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")
def validate(
    file: Path | None, few: Path | None, leave_out: str | None, unseen: bool, each: bool, as_json: bool
) -> None:
    """Score forecasts against the measured runs of FILE, or against those that ship with datahall.

    FILE has one run a row, with the columns that docs/accuracy.md lists.  A row that cannot be forecast is refused with
    its reason.  Runs that ship are among those that the shipped constants were fitted to, so without a FILE they are
    forecast with their own group left out.
    """
    from datahall.base.errors import UsageError
    from datahall.calibrate.validate import judge_rows

    if unseen and file:
        raise UsageError("--unseen scores runs that ship; give it or a file.", hint=f"datahall validate {file}")
    judgement = judge_rows(file, few, leave_out or ("" if file or unseen else "group"), unseen=unseen)
    for note in judgement.notes:
        click.echo(note, err=True)
    if as_json:
        click.echo(json.dumps(judgement.to_json()))
    else:
        title = "runs collected after the fit" if unseen else "the shipped figures"
        _print(judgement, each, title if file is None else file.name)


def _print(judgement: Judgement, each: bool, title: str) -> None:
    from rich.console import Console

    console = Console(width=100, highlight=False)
    data = judgement.to_json()
    console.print(
        f"[bold]{title}[/bold]: {data['n_rows']} rows, {data['n_scored']} scored, {data['n_refused']} refused"
    )
    for by, heading in (("by_group", "group"), ("by_accelerator", "accelerator")):
        _print_parts(console, data, by, heading)
    if each:
        _print_rows(console, data)
    if data["n_scored"]:
        macro = f"median {_percent(data['macro_median_ape'])}, mean {_percent(data['macro_mean_ape'])}"
        console.print(f"macro-averaged over groups (quality A): {macro}")
        console.print(f"interval score (share of the measurement): {_number(data['interval_score'])}")
    if data["regret_share"] is not None:
        console.print(
            f"picked plans were slower than the best measured ones by {_percent(data['regret_share'])} on average"
        )
    if data["scaling"] is not None:
        _print_scaling(console, data["scaling"])
    for reason, count in sorted(data["refused_reasons"].items(), key=lambda item: -item[1]):
        console.print(f"refused {count:>4}: {reason}")


def _print_parts(console: Any, data: Mapping[str, Any], by: str, heading: str) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(heading)
    for label in _COLUMNS.values():
        table.add_column(label, justify="right")
    for name, scores in data[by].items():
        table.add_row(name or "(none)", *(_cell(column, scores.get(column)) for column in _COLUMNS))
    if by == "by_group":
        table.add_row("[bold]all rows[/bold]", *(_cell(column, data.get(column)) for column in _COLUMNS))
    console.print(table)
    console.print()


def _print_scaling(console: Any, kept: Mapping[str, Any]) -> None:
    off, linear = (
        f"{_percent(kept[f'{what}median_ape'])} in the median, {_percent(kept[f'{what}mean_ape'])} on average"
        for what in ("", "linear_")
    )
    console.print(
        f"what a device keeps of its rate among more devices ({kept['n_pairs']} pairs of runs): off by {off};"
        f" to say that nothing is lost would be off by {linear}"
    )


def _print_rows(console: Any, data: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for label in ("run", "model", "accelerator", "measured s", "forecast s", "90 % interval", "error"):
        table.add_column(label, justify="left" if label in {"run", "model", "accelerator"} else "right")
    for row in data["rows"]:
        if row["scored"]:
            interval = f"{row['low_step_s']:.3g} to {row['high_step_s']:.3g}{'' if row['held'] else ' !'}"
            numbers = (f"{row['measured_step_s']:.4g}", f"{row['forecast_step_s']:.4g}", interval)
            table.add_row(row["id"], row["model"], row["accelerator"], *numbers, _percent(row["error_share"]))
    console.print(table)
    for row in data["rows"]:
        if not row["scored"]:
            console.print(f"refused {row['id']} ({row['accelerator']}): {row['reason']}", markup=False)
    console.print()


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if column.startswith("n_") else _percent(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
