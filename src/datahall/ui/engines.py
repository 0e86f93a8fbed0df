"""`datahall engines`: one training on several engines and numbers of workers, each forecast before it is run.

It prints; `prove.engine_trial` puts in order, and the engines themselves live in `real/engines`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datahall.base.errors import UsageError
from datahall.base.event import Event
from datahall.case.door import load
from datahall.case.question import Case
from datahall.prove.folder import new_folder, write_json

if TYPE_CHECKING:
    from datahall.calibrate.engine_costs import EngineCosts
    from datahall.prove.engine_trial import Row, Trial

NAMES = ("pytorch", "tensorflow", "jax")


@click.command("engines")
@click.argument("case_file", metavar="CASE", type=click.Path(path_type=Path))
@click.option("--engine", "engines", multiple=True, type=click.Choice([*NAMES, "all"]), help="Default: the case's.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Tried beside one worker.")
@click.option("--batch", type=click.IntRange(1), help="Images of a global batch (default: the case's).")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Threads a worker (not of JAX).",
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each, taking turns.")
@click.option("--only-pick", is_flag=True, help="Run only what the forecast picks.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="First port of the workers (default: free ones)."
)
@click.option("--open-ports", is_flag=True, help="Let TensorFlow's workers listen on every interface.")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change a value of the case.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where to.")
@click.option("--json", "as_json", is_flag=True, help="The answer as JSON.")
def engines(
    case_file: Path,
    engines: tuple[str, ...],
    workers: int,
    batch: int | None,
    threads: int,
    rounds: int,
    only_pick: bool,
    port: int,
    open_ports: bool,
    sets: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Train the digits of CASE on one worker and on several, by PyTorch, TensorFlow or JAX.

    Probes each engine, forecasts samples a second, picks engine and workers, seals, runs, and prints forecast beside
    measurement with the test accuracy.  Logs and results stay in runs/<time>-<name>/.
    """
    from datahall.prove.engine_trial import try_engines  # only here: it needs NumPy

    case = load(case_file, sets)
    size = batch or case.application.global_batch
    trial = try_engines(
        case,
        _chosen(case, engines),
        _folder(case, runs),
        workers=sorted({1, workers}),
        images={size: case.application.tokens},
        rounds=rounds,
        threads=threads,
        port=port,
        open_ports=open_ports,
        only_pick=only_pick,
        on_event=_tell,
    )
    if as_json:
        json.dump(trial.to_json(), sys.stdout, indent=2)
        return
    click.echo("\n".join([*table(trial), "", *sentences(trial, size), str(trial.folder)]))


def table(trial: Trial) -> list[str]:
    """The lines of a Markdown table: a setting a line, forecast beside measured."""
    lines = [
        "| engine | workers | batch | samples/s forecast | 90 % interval | measured | held | read | accuracy |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    return lines + [_line(row, row.setting == trial.picks[row.setting.batch]) for row in trial.rows]


def sentences(trial: Trial, batch: int) -> list[str]:
    """What follows at `batch`: the pick and its regret, whether more workers pay, and the noise of the accuracies."""
    pick = trial.picks[batch]
    rows = [row for row in trial.rows if row.setting.batch == batch]
    regret = "" if len(rows) == 1 else f"; {100 * trial.regret_share(batch):.1f} % slower than the best measured"
    lines = [f"Batch {batch}: picked before the run: {pick.engine}, {_workers(pick.workers)}{regret}."]
    by_engine: dict[str, list[EngineCosts]] = {}
    for one in trial.costs:
        by_engine.setdefault(one.engine, []).append(one)
    for name, (one, *more) in by_engine.items():
        lines += [_break_even(name, one, other) for other in more]
    return [*lines, _noise(rows)]


def _chosen(case: Case, engines: tuple[str, ...]) -> list[str]:
    if "all" in engines:
        return list(NAMES)
    chosen = list(dict.fromkeys(engines)) or [case.application.engine or NAMES[0]]
    if case.application.entry and not case.application.entry.startswith("datahall.workloads.digits"):
        raise UsageError(
            f"{case.application.entry} trains on PyTorch only.", where="application.entry", hint="Use `datahall run`."
        )
    return chosen


def _folder(case: Case, runs: Path) -> Path:
    folder = new_folder(runs, f"{case.name}-engines")
    write_json(folder / "case.json", case.to_json())
    return folder


def _line(row: Row, picked: bool) -> str:
    one, metric, run = row.setting, row.forecast, row.runs[0]
    mark = " (pick)" if picked else ""
    held = "yes" if row.held else "no"
    return (
        f"| {one.engine}{mark} | {one.workers} | {one.batch} | {metric.value:,.0f} | {metric.low:,.0f} to "
        f"{metric.high:,.0f} | {row.measured:,.0f} | {held} | {run.samples_read:,} | {100 * run.accuracy:.1f} % |"
    )


def _break_even(name: str, one: EngineCosts, more: EngineCosts) -> str:
    from datahall.calibrate.engine_costs import break_even_batch

    batch = break_even_batch(one, more)
    parts = (
        f"a step {1e3 * more.step_s:.2f} ms, a sample {1e6 * more.sample_s:.1f} us, "
        f"the exchange {1e3 * more.exchange_s:.2f} ms"
    )
    least, most = one.least, more.most * more.workers
    if math.isinf(batch):
        pays = "never pay on this machine"
    elif batch > most:
        pays = f"do not pay up to the largest batch that was probed ({most:,})"
    else:
        pays = f"pay from a batch of about {max(batch, least):,.0f}"
    return f"{name}: {_workers(more.workers)} {pays} ({parts})."


def _noise(rows: list[Row]) -> str:
    runs = [row.runs[0] for row in rows]
    mean, tested = sum(run.accuracy for run in runs) / len(runs), runs[0].tested
    noise = math.sqrt(mean * (1 - mean) / tested)
    apart = max(run.accuracy for run in runs) - min(run.accuracy for run in runs)
    same = "the same within noise" if apart <= 1.96 * math.sqrt(2) * noise else "not the same"
    return (
        f"Test accuracy {100 * mean:.1f} % on {tested:,} images, binomial noise {100 * noise:.1f} points (one standard "
        f"error); {100 * apart:.1f} points between the best and the worst: {same}."
    )


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _tell(event: Event) -> None:
    data = event.data
    if event.kind == "probed":
        click.echo(f"{event.time_s:7.1f} s  probed {data['engine']} with {_workers(data['workers'])}", err=True)
    elif event.kind == "sealed":
        click.echo(f"{event.time_s:7.1f} s  forecast sealed: {data['sha256'][:16]}", err=True)
    elif event.kind == "run":
        what = f"{data['engine']}, {_workers(data['workers'])}, batch {data['batch']}"
        click.echo(f"{event.time_s:7.1f} s  {what}: {data['samples_per_s']:,.0f} samples/s", err=True)
    elif event.kind == "waiting_for_turn":
        click.echo("another datahall is measuring on this machine; waiting for my turn", err=True)
