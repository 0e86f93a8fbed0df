"""`datahall run`: train a case on this machine by a plan that is given, with the forecast sealed before and beside it.

It does not choose the plan: `datahall plan` makes plan files, `datahall prove` does the whole loop.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datahall.base.errors import UsageError
from datahall.base.event import Event
from datahall.base.units import human
from datahall.case.door import load
from datahall.case.question import Case
from datahall.compute.layout import check_runnable
from datahall.decisions.plan import Plan
from datahall.decisions.proposal import load_proposal
from datahall.network.execute_namespaces import LinkShape
from datahall.prove.folder import new_folder, write_json
from datahall.report.words import percent
from datahall.ui.given_plan import given_plan, shortened

if TYPE_CHECKING:
    from datahall.prove.bubble import Bubble
    from datahall.prove.sealed_run import SealedRun
    from datahall.real.launch import Start
    from datahall.real.training import Measurement


@click.command("run")
@click.argument("what", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps (default: what the case asks for).")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker processes, for a case.")
@click.option("--micro-batch", type=click.IntRange(1), help="Sequences at once per worker, for a case.")
@click.option(
    "--split", "split", multiple=True, metavar="KEY=VALUE", help="How a case is cut: zero_stage=3, tensor=2, ..."
)
@click.option(
    "--exchange", multiple=True, metavar="KEY=VALUE", help="How gradients travel: compression=bf16, local_steps=8, ..."
)
@click.option(
    "--on-link", is_flag=True, help="Every worker on a host of its own, joined by links of the site's (root, Linux)."
)
@click.option(
    "--recovery", type=click.Choice(["exact", "fast"]), default="exact", show_default=True, help="After a lost worker."
)
@click.option("--checkpoint-every", type=click.IntRange(0), default=0, show_default=True, help="Steps, for a case.")
@click.option("--forecast/--no-forecast", default=True, show_default=True, help="Seal a forecast and compare.")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change a value of the case.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where to.")
@click.option("--on", "place", type=click.Choice(["here", "ray"]), default="here", show_default=True, help="Where.")
@click.option("--address", default="", help="Of a Ray cluster (default: one that is started for this run).")
@click.option("--interface", default="lo", show_default=True, help="Network device between workers, on Ray.")
def run(
    what: Path,
    steps: int | None,
    workers: int,
    micro_batch: int | None,
    split: tuple[str, ...],
    exchange: tuple[str, ...],
    on_link: bool,
    recovery: str,
    checkpoint_every: int,
    forecast: bool,
    sets: tuple[str, ...],
    runs: Path,
    place: str,
    address: str,
    interface: str,
) -> None:
    """Train WHAT here: a plan file of `datahall plan --out`, or a case with the split given by options.

    A forecast by component is sealed first (with rates of `datahall probe`, or of a quick probe where there are none)
    and compared at the end.  A killed worker is replaced from the last checkpoint (--recovery exact), or while the
    others go on (fast: what it would have read is dropped and counted).  Everything stays in runs/<time>-<name>/.
    """
    case, plan = _case_and_plan(what, steps, sets, workers, micro_batch, checkpoint_every, split, exchange)
    link = LinkShape(case.site.scale_out.bytes_per_s * 8, 2 * case.site.scale_out.latency_s) if on_link else None
    _check(case, plan, link, recovery)
    folder = new_folder(runs, case.name)
    write_json(folder / "case.json", case.to_json())
    write_json(folder / "plan.json", plan.to_json())
    paths = [str(what.resolve().parent)]
    asked = _Asked(case, plan, folder, steps, link, paths, address if place == "ray" else None, interface)
    _carry_out(asked, recovery, forecast)
    click.echo(folder)


def _case_and_plan(
    what: Path,
    steps: int | None,
    sets: tuple[str, ...],
    workers: int,
    micro_batch: int | None,
    checkpoint_every: int,
    split: tuple[str, ...],
    exchange: tuple[str, ...],
) -> tuple[Case, Plan]:
    """Those of a plan file, or a case with the plan that the options give it."""
    if what.suffix != ".json":
        case = shortened(load(what, sets), steps)
        return case, given_plan(case, workers, micro_batch, checkpoint_every, split, exchange)
    if sets or split or exchange or micro_batch or checkpoint_every or workers > 1:
        raise UsageError(
            "a plan file says already how the case is cut and what is written.",
            where=str(what),
            hint="Give a case with these options, or plan again with --set.",
        )
    proposal = load_proposal(what)
    return proposal.case, proposal.plan


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be run, where, and what everybody who runs it is told."""

    case: Case
    plan: Plan
    folder: Path
    steps: int | None
    link: LinkShape | None
    paths: list[str]
    ray: str | None  # the cluster's address, empty for one of our own; None: here
    interface: str

    @property
    def told(self) -> dict[str, Any]:
        """The arguments that every way to run it takes."""
        return {"steps": self.steps, "link": self.link, "on_event": _tell, "import_paths": self.paths}


def _check(case: Case, plan: Plan, link: LinkShape | None, recovery: str) -> None:
    """Refuse what cannot run here before a folder is made."""
    if case.application.engine not in ("", "pytorch"):
        raise UsageError(
            f"`datahall run` trains on PyTorch, not on {case.application.engine}.",
            where="application.engine",
            hint="Use `datahall engines`.",
        )
    try:
        from datahall.real import training
    except ModuleNotFoundError as error:
        raise UsageError(
            f"running needs {error.name}, which is not installed.", hint="Install datahall[train]."
        ) from error
    check_runnable(plan.compute)
    training.check_batches(plan, [plan.compute.devices])
    training.check_exchange(plan)
    if recovery == "fast":
        from datahall.real.fast import check_fast

        if link is not None:
            raise UsageError("fast recovery runs on this machine's own network only.", where="--on-link")
        check_fast(plan)


def _carry_out(asked: _Asked, recovery: str, forecast: bool) -> None:
    why = _no_forecast(asked.case) if forecast else ""
    if why:
        click.echo(f"no forecast: {why}", err=True)
    if recovery == "fast":
        _fast(asked, forecast=forecast and not why)
    elif forecast and not why:
        _sealed(asked)
    else:
        _unforecast(asked)


def _no_forecast(case: Case) -> str:
    """Why there is none, in words; empty where there is one."""
    if case.site.accelerator.kind == "gpu":
        return "rates of this machine's GPUs are not probed; `datahall plan` forecasts from the catalogue"
    return ""


def _fast(asked: _Asked, *, forecast: bool) -> None:
    from datahall.prove.fast_run import sealed_fast_run
    from datahall.prove.sealed_run import machine_here
    from datahall.real.fast import run_fast

    case, plan, folder = asked.case, asked.plan, asked.folder
    told = {"steps": asked.steps, "on_event": _tell, "import_paths": asked.paths}
    if forecast:
        here = machine_here(folder, _tell)
        click.echo(f"{here.origin}; agreeing is rehearsed", err=True)
        beside = sealed_fast_run(case, plan, here, folder, **told)
        done = beside.done
        _show_sealed(beside.sealed)
    else:
        done = run_fast(case, plan, folder / "real", **told)
        write_json(folder / "real" / "result.json", done.measured.result.to_json())
        click.echo(_table(done.measured))
    planned = len(done.measured.steps) * plan.compute.global_batch
    click.echo(
        f"{len(done.measured.lost)} workers lost; {done.dropped_samples:,} of {planned:,} samples dropped, in "
        f"{len(done.dropped)} steps; longest step of a survivor {human(done.longest_step_s, 'seconds')}, usually "
        f"{human(done.usual_step_s, 'seconds')}"
    )


def _placed(ray: str | None) -> AbstractContextManager[Start | None]:
    """Where workers are started: here, or on the Ray cluster at this address (empty: one of our own)."""
    if ray is None:
        return nullcontext()
    from datahall.real.ray_executor import on_ray

    return on_ray(ray)


def _unforecast(asked: _Asked) -> None:
    from datahall.real import training

    real = asked.folder / "real"
    with _placed(asked.ray) as start:
        measured = training.run(asked.case, asked.plan, real, start=start, interface=asked.interface, **asked.told)
    write_json(real / "result.json", measured.result.to_json())
    click.echo(_table(measured))


def _sealed(asked: _Asked) -> None:
    from datahall.prove.sealed_run import Placement, machine_here, sealed_run

    here = machine_here(asked.folder, _tell)
    click.echo(here.origin, err=True)
    with _placed(asked.ray) as start:
        at = Placement(start, asked.interface, own_cluster=not asked.ray) if start is not None else Placement()
        done = sealed_run(asked.case, asked.plan, here, asked.folder, at=at, **asked.told)
    _show_sealed(done)


def _show_sealed(done: SealedRun) -> None:
    from datahall.report.terminal import comparison_table, counts_table, memory_table, show

    show(comparison_table(done.comparison), counts_table(done.comparison), memory_table(done.memory))
    if done.bubble is not None:
        click.echo(_bubble_line(done.bubble))
    if done.measured.losses:
        click.echo(f"loss {done.measured.losses[0]:.4f} to {done.measured.losses[-1]:.4f}")


def _bubble_line(bubble: Bubble) -> str:
    return (
        f"bubble: by the formula {percent(bubble.formula)}, by the order of the work done {percent(bubble.by_order)};"
        f" by the clock forecast {percent(bubble.clock_forecast)}, measured {percent(bubble.by_clock)}"
        " (waiting, mean of the stages)"
    )


def _tell(event: Event) -> None:
    data = event.data
    if event.kind == "step" and data["step"] % 10 == 0:
        click.echo(f"{event.time_s:8.1f} s  step {data['step']:>6}  loss {data['loss'] or float('nan'):.4f}", err=True)
    elif event.kind == "launched":
        click.echo(f"{event.time_s:8.1f} s  {data['workers']} workers start", err=True)
    elif event.kind == "replaced":
        click.echo(f"{event.time_s:8.1f} s  a new worker {data['worker']} starts; the others go on", err=True)
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
