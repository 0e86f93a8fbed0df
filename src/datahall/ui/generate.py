"""`datahall generate`: tokens for a case's prompts, with a prefix cache where it pays, forecast and measured.

No server: the prompts are there at the beginning, and batches follow one another.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from datahall.base.errors import UsageError
from datahall.base.event import Event
from datahall.case.door import load
from datahall.case.generation import Generation
from datahall.case.question import Case
from datahall.prove.folder import new_folder, write_json


@click.command("generate")
@click.argument("case_file", metavar="CASE", type=click.Path(path_type=Path))
@click.option("--requests", type=click.Path(path_type=Path), help="Prompts: JSON lines with `prompt` or `tokens`.")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="application.generation.cache.use=never, ...")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where to.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def generate_command(case_file: Path, requests: Path | None, sets: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Make tokens for the prompts of CASE (application.generation) and keep what prompts have in common.

    Probes the model, says before whether the cache pays and from which rate and share of hits it would, seals, runs
    every batch with it and without, and prints forecast beside measurement.  The folder has answers.jsonl.
    """
    case = _case(load(case_file, sets), requests)
    try:
        from datahall.prove.generation_trial import generate
    except ModuleNotFoundError as error:
        raise UsageError(
            f"generating needs {error.name}, which is not installed.", hint="Install datahall[train]."
        ) from error
    folder = new_folder(runs, f"{case.name}-generate")
    write_json(folder / "case.json", case.to_json())
    done = generate(case, folder, on_event=_tell)
    if as_json:
        json.dump(done.comparison.to_json(), sys.stdout, indent=2)
        return
    from datahall.report.terminal import comparison_table, counts_table, show

    click.echo("\n".join(done.comparison.notes))
    show(comparison_table(done.comparison), counts_table(done.comparison))
    click.echo(done.folder)


def _case(case: Case, requests: Path | None) -> Case:
    if requests is None:
        return case
    wanted = case.application.generation or Generation()
    given = dataclasses.replace(wanted, prompts=str(requests.resolve()))
    return dataclasses.replace(case, application=dataclasses.replace(case.application, generation=given))


def _tell(event: Event) -> None:
    if event.kind == "probed":
        click.echo(f"{event.time_s:7.1f} s  probed prompts, single tokens and blocks", err=True)
    elif event.kind == "sealed":
        click.echo(f"{event.time_s:7.1f} s  forecast sealed: {event.data['sha256'][:16]}", err=True)
    elif event.kind == "waiting_for_turn":
        click.echo("another datahall is measuring on this machine; waiting for my turn", err=True)
