"""`datahall probe`: measure this machine and leave a site file that cases read with `site: local`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from datahall.base.event import Event
from datahall.base.units import human


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where the site goes (default: where `site: local` looks)."
)
@click.option("--quick", is_flag=True, help="About 15 seconds instead of a minute; wider of the mark.")
@click.option("--json", "as_json", is_flag=True, help="Rates and findings as JSON on stdout.")
def probe(out: Path | None, quick: bool, as_json: bool) -> None:
    """Measure this machine: products, memory, disk, messages, start-up, noise.

    Writes a site file in base units with the origin of each number, and its rates beside it (.rates.json).
    """
    from datahall.base.whole_file import check_writable, write_text
    from datahall.case.local import rates_path, site_path
    from datahall.case.site_file import write_site
    from datahall.real.probe import probe as measure

    path = out or site_path()
    for file in (path, rates_path(path)):
        check_writable(file)  # before a minute of measuring
    with tempfile.TemporaryDirectory(prefix="datahall-probe-") as folder:
        probed = measure(Path(folder), quick=quick, on_event=_tell)
    text = json.dumps(probed.to_json(), indent=2)
    write_site(probed.site, path)
    write_text(rates_path(path), text + "\n")
    if as_json:
        click.echo(text)
    else:
        click.echo(f"{path}\n{rates_path(path)}")


def _tell(event: Event) -> None:
    if event.kind == "waiting_for_turn":
        click.echo("another datahall is measuring on this machine; waiting for my turn", err=True)
    elif event.kind == "finding":
        click.echo(_sentence(event.data["finding"]), err=True)


def _sentence(finding: dict[str, Any]) -> str:
    setting = [f"{finding[key]} {key}" for key in ("threads", "processes") if finding.get(key, 1) != 1]
    parts = [
        finding["kind"].replace("_", " "),
        finding.get("dtype", ""),
        " x ".join(map(str, finding.get("shape", ()))),
    ]
    if "shape" not in finding and finding.get("bytes"):
        parts.append(human(finding["bytes"], "bytes"))
    parts.append(", ".join(setting))
    for key, unit in (("flops_per_s", "flops_per_s"), ("bytes_per_s", "bytes_per_s"), ("seconds", "seconds")):
        if key in finding:
            parts.append(human(finding[key], unit))
            break
    return "  ".join(part for part in parts if part)
