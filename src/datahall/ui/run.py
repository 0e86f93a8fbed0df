"""`datahall run`: train a case on this machine by a plan that is given, and keep everything in a folder.

It neither plans nor compares: `datahall plan` makes plan files, `datahall prove` does the whole loop.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datahall.base.errors import UsageError
from datahall.base.event import Event
from datahall.base.units import human
from datahall.case.door import load
from datahall.case.question import Case
from datahall.compute.layout import check_runnable
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.decisions.proposal import load_proposal
from datahall.network.plan import NetworkPlan
from datahall.prove.folder import new_folder, write_json
from datahall.storage.plan import StoragePlan

if TYPE_CHECKING:
    from datahall.prove.beside import Sealed
    from datahall.real.training import Measurement


@click.command("run")
@click.argument("what", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps (default: what the case asks for).")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker processes, for a case.")
@click.option("--micro-batch", type=click.IntRange(1), help="Sequences at once per worker, for a case.")
@click.option(
    "--split", "split", multiple=True, metavar="KEY=VALUE", help="How a case is cut: zero_stage=3, tensor=2, ..."
)
@click.option("--checkpoint-every", type=click.IntRange(0), default=0, show_default=True, help="Steps, for a case.")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change a value of the case.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where to.")
def run(
    what: Path,
    steps: int | None,
    workers: int,
    micro_batch: int | None,
    split: tuple[str, ...],
    checkpoint_every: int,
    sets: tuple[str, ...],
    runs: Path,
) -> None:
    """Train WHAT here: a plan file of `datahall plan --out`, or a case with the split given by options.

    A killed worker is replaced from the last checkpoint.  Logs and results stay in runs/<time>-<name>/.
    """
    if what.suffix == ".json":
        proposal = load_proposal(what)
        case, plan = proposal.case, proposal.plan
    else:
        case = shortened(load(what, sets), steps)
        plan = given_plan(case, workers, micro_batch, checkpoint_every, split)
    try:
        from datahall.real import training
    except ModuleNotFoundError as error:
        raise UsageError(
            f"running needs {error.name}, which is not installed.", hint="Install datahall[train]."
        ) from error
    check_runnable(plan.compute)
    training.check_batches(plan, [plan.compute.devices])
    folder = new_folder(runs, case.name)
    write_json(folder / "case.json", case.to_json())
    write_json(folder / "plan.json", plan.to_json())
    paths = [str(what.resolve().parent)]
    sealed = _sealed(case, plan, folder) if steps in (None, case.application.steps) else None
    measured = training.run(case, plan, folder / "real", steps=steps, on_event=_tell, import_paths=paths)
    write_json(folder / "real" / "result.json", measured.result.to_json())
    if sealed is None:
        click.echo(_table(measured))
    else:
        _show_beside(sealed, measured, folder)
    click.echo(folder)


def shortened(case: Case, steps: int | None) -> Case:
    """The case with as many tokens as `steps` steps take; the case itself for None."""
    if steps is None:
        return case
    application = case.application
    tokens = float(steps * application.global_batch * application.sequence)
    return replace(case, application=replace(application, tokens=tokens))


def given_plan(
    case: Case, workers: int, micro_batch: int | None, checkpoint_every: int, split: tuple[str, ...] = ()
) -> Plan:
    """The plan of `workers` processes cut by `split`, all of them data-parallel where it says nothing.

    UsageError when the global batch cannot be divided so.
    """
    fields = dict(_field(text) for text in split)
    batch = case.application.global_batch
    copies = max(1, workers // (int(fields.get("tensor", 1)) * int(fields.get("pipeline", 1))))
    share, rest = divmod(batch, copies)
    size = micro_batch or share
    if rest or not share or share % size:
        raise UsageError(
            f"a global batch of {batch} sequences cannot be divided among {copies} workers in pieces of {size}.",
            where="--workers, --micro-batch",
            hint="Choose numbers whose product divides the global batch.",
        )
    precision = case.application.precision or "fp32"
    compute = ComputePlan(data=copies, micro_batch=size, accumulation=share // size, precision=precision)
    compute = replace(compute, sequence_parallel=False, **fields)  # pyright: ignore[reportArgumentType]
    if compute.devices != workers:
        raise UsageError(
            f"this split needs {compute.devices} workers, not {workers}.",
            where="--split, --workers",
            hint="Workers are data x tensor x pipeline.",
        )
    return Plan(compute, StoragePlan(interval_steps=checkpoint_every), NetworkPlan(), case.hash())


_SPLIT_NUMBERS = ("tensor", "pipeline", "virtual_stages", "zero_stage", "shard_group")
_SPLIT_WORDS = ("schedule", "recompute", "precision")


def _field(text: str) -> tuple[str, int | str]:
    name, equals, value = text.partition("=")
    if equals and name in _SPLIT_NUMBERS and value.isdigit():
        return name, int(value)
    if equals and name in _SPLIT_WORDS and value:
        return name, value
    raise UsageError(
        f"{text!r} does not say how to cut a model.",
        where="--split",
        hint=f"Write {', '.join(f'{name}=2' for name in _SPLIT_NUMBERS)} or {', '.join(_SPLIT_WORDS)}=WORD.",
    )


def _sealed(case: Case, plan: Plan, folder: Path) -> Sealed | None:
    """The forecast, written before the run, where this machine was probed and what draws the comparison is there."""
    try:
        from datahall.prove.beside import probed_machine, seal_forecast
    except ModuleNotFoundError:
        return None
    machine = probed_machine(case)
    if machine is None:
        click.echo("no forecast: `datahall probe` measures this machine first, for a case with `site: local`", err=True)
        return None
    return seal_forecast(case, plan, machine, folder)


def _show_beside(sealed: Sealed, measured: Measurement, folder: Path) -> None:
    from datahall.prove.beside import lay_beside
    from datahall.report.terminal import comparison_table, counts_table, show

    compared = lay_beside(sealed, measured, folder)
    show(comparison_table(compared), counts_table(compared))
    if measured.losses:
        click.echo(f"loss {measured.losses[0]:.4f} to {measured.losses[-1]:.4f}")


def _tell(event: Event) -> None:
    data = event.data
    if event.kind == "step" and data["step"] % 10 == 0:
        click.echo(f"{event.time_s:8.1f} s  step {data['step']:>6}  loss {data['loss']:.4f}", err=True)
    elif event.kind == "launched":
        click.echo(f"{event.time_s:8.1f} s  {data['workers']} workers start", err=True)
    elif event.kind == "lost":
        click.echo(
            f"{event.time_s:8.1f} s  worker {data['worker']} lost in step {data['step']}: {data['how']}", err=True
        )
    elif event.kind == "waiting_for_turn":
        click.echo("another datahall is measuring on this machine; waiting for my turn", err=True)


def _table(measured: Measurement) -> str:
    lines = [
        f"{metric.name:<18} {human(metric.value, metric.unit):>12}   {human(metric.low, metric.unit)} to "
        f"{human(metric.high, metric.unit)}"
        for metric in measured.result.metrics.values()
    ]
    counts = [f"{name:<18} {value:>12,}" for name, value in measured.result.counts.items()]
    losses = [f"{'loss':<18} {measured.losses[0]:>12.4f}   to {measured.losses[-1]:.4f}"] if measured.losses else []
    return "\n".join([*lines, *counts, *losses])
