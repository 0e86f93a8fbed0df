"""`datahall validate`: forecasts laid beside measured training runs, from a file or those that ship, and scored.

Reading, forecasting and scoring are `calibrate`'s, the text is `report`'s; here it is printed.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from datahall.calibrate.judge import Judgement


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
@click.option("--rows/--no-rows", default=True, show_default=True, help="Print every row before the tables and sums.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")
def validate(
    file: Path | None, few: Path | None, leave_out: str | None, unseen: bool, rows: bool, as_json: bool
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
    if as_json:
        click.echo(json.dumps(judgement.to_json()))
    else:
        title = "runs collected after the fit" if unseen else "the shipped figures"
        _print(judgement, rows, title if file is None else file.name)
    for note in judgement.notes:  # last, where hundreds of rows do not push it off the screen
        click.echo(note, err=True)


def _print(judgement: Judgement, rows: bool, title: str) -> None:
    from datahall.report.scores import told

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for place, part in enumerate(told(judgement.to_json(), title, width, rows=rows)):
        click.secho(f"\n{part.heading}" if place else part.heading, bold=True)
        for line in part.lines:
            click.echo(line)
