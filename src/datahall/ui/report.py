"""`datahall report FOLDER`: write a run's report.html and trace again from what its folder holds."""

from __future__ import annotations

from pathlib import Path

import click

from datahall.base.errors import UsageError


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here instead.")
def report(folder: Path, out: Path | None) -> None:
    """Write report.html (and trace.json.gz) of a run again.

    FOLDER is a run's folder under runs/. Parts that it lacks are named on the page.
    """
    try:
        from datahall.report.write import write_report
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the report needs {error.name}, which is not installed.", hint="Install datahall[report]."
        ) from error
    click.echo(write_report(folder, out))
