"""`datahall prove`: the whole loop on this machine with one command, shown while it happens.

It prints what `prove.loop` tells, and decides and measures nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datahall.base.errors import EXIT_DONE, EXIT_OUTSIDE_TOLERANCE, Refused, UsageError
from datahall.base.event import Event
from datahall.base.units import human
from datahall.case.door import load
from datahall.prove.folder import new_folder
from datahall.report.words import percent, signed_percent
from datahall.ui.given_plan import network_of

if TYPE_CHECKING:
    from rich.console import Console

    from datahall.prove.loop import Proof


@click.command("prove")
@click.argument("case", type=click.Path(path_type=Path), default=Path("cases/first.yaml"))
@click.option("--full", is_flag=True, help="All held-out configurations and the blind trials (about ten minutes).")
@click.option(
    "--exchange", multiple=True, metavar="KEY=VALUE", help="How gradients travel: compression=bf16, local_steps=8, ..."
)
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Change a value of the case.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where to.")
@click.option("--json", "as_json", is_flag=True, help="comparison.json on stdout at the end.")
def prove(case: Path, full: bool, exchange: tuple[str, ...], sets: tuple[str, ...], runs: Path, as_json: bool) -> int:
    """Probe, plan, seal, run, compare, calibrate and report CASE on this machine.

    Exit code 4: the measurement fell outside the forecast, or counts differ.  Everything stays in runs/<time>-<name>/.
    """
    asked, network = load(case, sets), network_of(exchange)
    if asked.application.entry:
        raise Refused(
            "a proof calibrates on language models of many shapes, and this case brings its own model.",
            where="application.entry",
            hint="Use `datahall run CASE --workers 2`: it rehearses your model, seals a forecast and compares.",
        )
    try:
        from datahall.prove.loop import Settings
        from datahall.prove.loop import prove as play
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a proof needs {error.name}, which is not installed.", hint="Install datahall[train,report]."
        ) from error
    from rich.console import Console

    from datahall.prove.effort import DEMO, FULL
    from datahall.report.terminal import console_of

    console = console_of(Console(stderr=True, highlight=False))
    folder = new_folder(runs, asked.name)
    settings = Settings(folder, FULL if full else DEMO, Teller(console), (str(case.resolve().parent),), network=network)
    with console.status("starting") as status:
        settings.on_event.status = status  # type: ignore[attr-defined]
        proof = play(asked, settings)
    _show(proof, console)
    if as_json:
        click.echo((folder / "comparison.json").read_text(encoding="utf-8"), nl=False)
    else:
        click.echo(proof.page)
    return EXIT_DONE if proof.comparison.verdict.word == "holds" else EXIT_OUTSIDE_TOLERANCE


class Teller:
    """Says what happens, a line for what stays and a status for what passes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status: Any = None

    def __call__(self, event: Event) -> None:
        """Hear one event of the loop."""
        tell = getattr(self, f"_{event.kind}", None)
        if tell is not None:
            tell(event.data)

    def _stage(self, data: dict[str, Any]) -> None:
        self.console.rule(f"[bold]{data['name']}", align="left", style="dim")
        self._now(data["name"])

    def _waiting_for_turn(self, _data: dict[str, Any]) -> None:
        self.console.print("another datahall is measuring on this machine; waiting for my turn")

    def _finding(self, data: dict[str, Any]) -> None:
        found = data["finding"]
        what = " ".join(str(found.get(key, "")) for key in ("kind", "dtype")).replace("_", " ")
        self._now(f"probe: {what}")

    def _plans(self, data: dict[str, Any]) -> None:
        from datahall.report.terminal import plans_table

        self.console.print(plans_table(data["plans"], limit=5))
        self.console.print(f"[dim]rates: {data['origin']}[/dim]")
        if data.get("flip"):
            self.console.print(data["flip"])

    def _sealed(self, data: dict[str, Any]) -> None:
        from datahall.report.terminal import forecast_table

        self.console.print(forecast_table(data["forecast"], "Sealed forecast"))
        self.console.print(f"sealed before the run: sha256 {data['sha256'][:16]}…")

    def _play(self, data: dict[str, Any]) -> None:
        self._now(f"{data['name']}, round {data['round']} of {data['of']}")

    def _step(self, data: dict[str, Any]) -> None:
        self._now(f"step {data['step']}, loss {data['loss']:.3f}")

    def _played(self, data: dict[str, Any]) -> None:
        step_s = data["result"].metrics["step_time"].value
        losses = data["losses"]
        self.console.print(
            f"{'plan' if data['name'] == 'real' else data['name']:<9} {human(step_s, 'seconds'):>9} a step, "
            f"loss {losses[0]:.3f} to {losses[-1]:.3f}"
        )

    def _parity(self, data: dict[str, Any]) -> None:
        word = "holds" if data["holds"] else "does not hold"
        self.console.print(
            f"parity of {data['workers']} workers with one process {word}: losses within {data['loss_share']:.1e} "
            f"over {data['steps']} steps (tolerance {data['loss_tolerance_share']:.0e})"
        )

    def _recovery(self, data: dict[str, Any]) -> None:
        self.console.print(
            f"kill -9 of worker {data['killed_worker']} in step {data['killed_in_step']}: "
            f"{data['samples_lost']} samples lost, {data['samples_repeated']} repeated"
        )

    def _configuration(self, data: dict[str, Any]) -> None:
        if not data.get("judged"):
            self._now(f"fitted to {data['done']} of {data['of']}: {data['name']}")
            return
        error = data["forecast_s"] / data["measured_s"] - 1.0
        self.console.print(
            f"[dim]held out {data['done']:>2} of {data['of']}[/dim]  {data['name']:<32} "
            f"forecast {human(data['forecast_s'], 'seconds'):>8}  measured {human(data['measured_s'], 'seconds'):>8}  "
            f"{signed_percent(error)}"
        )

    def _contender(self, data: dict[str, Any]) -> None:
        self.console.print(f"[dim]{data['role']:<21}[/dim] {data['name']}, {human(data['step_s'], 'seconds')} a step")

    def _trial(self, data: dict[str, Any]) -> None:
        done = f"{data['kind'] or 'control'} x {data['dose']:g}"
        self.console.print(
            f"blind {done:<18} named: {data['named'] or 'nothing':<12} {'right' if data['right'] else 'WRONG'}"
        )

    def _now(self, text: str) -> None:
        if self.status is not None:
            self.status.update(text)


def _show(proof: Proof, console: Console) -> None:
    from datahall.report.terminal import again_table, comparison_table, counts_table, heldout_table

    console.print(comparison_table(proof.comparison))
    console.print(counts_table(proof.comparison))
    console.print(heldout_table(proof.scores["step_time"]))
    memory = proof.scores["peak_memory"]
    console.print(f"peak memory of the same configurations: median error {percent(memory.median_error_share)}")
    console.print(again_table(proof.again))
    median, low, high = proof.speedup
    console.print(f"plan against baseline, paired: {median:.2f} times as fast ({low:.2f} to {high:.2f})")
