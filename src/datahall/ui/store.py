"""`datahall store`: look at a checkpoint store, verify it, clean it, export it, ask which codec pays.

The work is that of `storage`; this reads options and prints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from datahall.base.errors import EXIT_FAILED
from datahall.base.units import human, parse
from datahall.storage.faults import NoCheckpoint, StoreFault
from datahall.storage.manifest import Manifest
from datahall.storage.place import Place, open_place
from datahall.storage.store import GRACE_S, collect, committed_steps, read_manifest
from datahall.storage.store import verify as verify_step

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def store() -> None:
    """Checkpoint stores: a folder or any URL that fsspec reads (s3://bucket/prefix)."""


@store.command()
@click.argument("path")
@_JSON
def ls(path: str, as_json: bool) -> int:
    """List the committed steps."""
    place = open_place(path)
    rows = [_row(place, step) for step in committed_steps(place)]
    if as_json:
        click.echo(json.dumps({"format_version": 1, "steps": rows}))
        return 0
    if not rows:
        raise _nothing(path)
    click.echo(f"{'step':>10}  {'tensors':>7}  {'shards':>6}  {'in memory':>10}  {'stored':>10}  codec")
    for row in rows:
        if "fault" in row:
            click.echo(f"{row['step']:>10}  {row['fault']}")
            continue
        raw, stored = human(row["raw_bytes"], "bytes"), human(row["stored_bytes"], "bytes")
        click.echo(
            f"{row['step']:>10}  {row['tensors']:>7}  {row['shards']:>6}  {raw:>10}  {stored:>10}  {row['codec']}"
        )
    return 0


@store.command()
@click.argument("path")
@click.option("--step", type=int, help="Only this step.")
@_JSON
def verify(path: str, step: int | None, as_json: bool) -> int:
    """Read every byte and compare it with its digest; names each damaged file and exits with 1."""
    place = open_place(path)
    steps = [step] if step is not None else committed_steps(place)
    if not steps:
        raise _nothing(path)
    verdicts = [verify_step(place, number) for number in steps]
    if as_json:
        entries = [
            {"step": v.step, "stored_bytes": v.stored_bytes, "chunks": v.chunks, "faults": v.faults} for v in verdicts
        ]
        click.echo(json.dumps({"format_version": 1, "steps": entries}))
    else:
        for verdict in verdicts:
            state = "whole" if not verdict.faults else f"{len(verdict.faults)} fault(s)"
            click.echo(f"step {verdict.step}: {state}, {verdict.chunks} chunks, {human(verdict.stored_bytes, 'bytes')}")
            for fault in verdict.faults:
                click.echo(f"  {fault}")
    return EXIT_FAILED if any(verdict.faults for verdict in verdicts) else 0


@store.command()
@click.argument("path")
@click.option(
    "--keep", type=click.IntRange(min=0), default=0, help="Retire all but the newest KEEP steps (0: retire none)."
)
@click.option(
    "--older-than", "grace_s", type=float, default=GRACE_S, show_default=True, help="Seconds that leftovers stay."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(path: str, keep: int, grace_s: float, dry_run: bool) -> int:
    """Remove retired steps and the leftovers of saves that were never committed."""
    removed = collect(path, keep, grace_s=grace_s, dry=dry_run)
    for entry in removed:
        click.echo(f"{entry.path}  {human(entry.bytes, 'bytes')}")
    total = human(sum(entry.bytes for entry in removed), "bytes")
    click.echo(f"{len(removed)} files, {total} {'would be removed' if dry_run else 'removed'}")
    return 0


@store.command()
@click.argument("path")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--step", type=int, help="The step; the newest if not given.")
@click.option("--prefix", default="model.", show_default=True, help="Which tensors; cut off from their names.")
def export(path: str, folder: Path, step: int | None, prefix: str) -> int:
    """Write the tensors of a step as safetensors files."""
    from datahall.storage.execute_export import export_safetensors

    for file in export_safetensors(path, folder, step=step, prefix=prefix):
        click.echo(f"{file}  {human(file.stat().st_size, 'bytes')}")
    return 0


@store.command()
@click.argument("path")
@click.option(
    "--reads", default=1.0, show_default=True, help="How often a checkpoint is read for each time it is written."
)
@click.option("--bytes-per-s", "rate", help='Take this rate, such as "100 MB/s", instead of measuring PATH.')
@click.option(
    "--hardware-mtbf", "mtbf", help='Mean time between failures, such as "3 days": also says how often to save.'
)
@_JSON
def advise(path: str, reads: float, rate: str | None, mtbf: str | None, as_json: bool) -> int:
    """Measure PATH and the codecs, on its newest checkpoint if there is one: which codec pays, below which rate.

    Writes and removes some 256 MB in PATH.
    """
    from datahall.storage.execute_advice import advise as measured

    advice = measured(
        path, reads, parse(rate, "bytes_per_s") if rate else None, parse(mtbf, "seconds") if mtbf else None
    )
    if as_json:
        click.echo(json.dumps({"format_version": 1, **advice.to_json()}))
        return 0
    for line in advice.lines():
        click.echo(line)
    return 0


def _nothing(path: str) -> NoCheckpoint:
    return NoCheckpoint(
        "nothing is committed here.", where=path, hint="Name the folder that holds step-00000001 and so on."
    )


def _row(place: Place, step: int) -> dict[str, Any]:
    try:
        manifest: Manifest = read_manifest(place, step)
    except StoreFault as error:
        return {"step": step, "fault": str(error)}
    return {
        "step": step,
        "tensors": len(manifest.tensors),
        "shards": len(manifest.shards),
        "raw_bytes": manifest.raw_bytes,
        "stored_bytes": manifest.stored_bytes,
        "codec": manifest.codec,
    }
