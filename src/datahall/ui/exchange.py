"""`datahall exchange`: which way of exchanging gradients pays on a link, with the break-even of each.

Reads nothing and measures nothing: what is not given on the command line is a shipped figure and is called so.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from datahall.base.errors import UsageError
from datahall.base.units import human, human_time, parse
from datahall.network.choose import LinkModel, Option, options, shipped_candidates
from datahall.report.terminal import plain_table, show

FORMAT_VERSION = 1


@click.command()
@click.option("--parameters", required=True, help="trainable parameters of the model, such as 1.2e9")
@click.option("--step", "step", required=True, help="seconds of a step without exchange, such as 0.4 s")
@click.option("--link", required=True, help="rate of one host's link, such as 25 Gb/s")
@click.option("--round-trip", default="0.1 ms", show_default=True, help="time there and back over the link")
@click.option("--hosts", default=2, show_default=True, help="hosts that train together")
@click.option(
    "--hidden",
    default=1024,
    show_default=True,
    type=click.IntRange(1),
    help="side of the model's square matrices (for PowerSGD)",
)
@click.option("--memory", help="memory rate of the device that codes, such as 2 TB/s (default: one processor core)")
@click.option("--json", "as_json", is_flag=True, help="the answer as JSON")
def exchange(
    parameters: str, step: str, link: str, round_trip: str, hosts: int, hidden: int, memory: str | None, as_json: bool
) -> None:
    """Which exchange of gradients pays on a link: plain, compressed or rarer, by time to the same loss."""
    if hosts < 2:
        raise UsageError("one host exchanges nothing.", where="--hosts", hint="Give 2 or more.")
    count = round(_above_zero("--parameters", parameters, "count"))
    shapes = [(hidden, hidden)] * (count // hidden**2)
    rest = count - math.prod((len(shapes), hidden, hidden))
    path = LinkModel(_above_zero("--link", link, "bytes_per_s") * 8, _above_zero("--round-trip", round_trip, "seconds"))
    tensors = [*shapes, *([(rest,)] if rest else [])]
    ways = shipped_candidates(count, hosts, _above_zero("--memory", memory, "bytes_per_s") if memory else 0.0)
    made = options(tensors, hosts, path, _above_zero("--step", step, "seconds"), ways)
    if as_json:
        rows = [asdict(option) for option in made]
        for row in rows:
            rate = row["break_even_bits_per_s"]
            row["break_even_bits_per_s"] = None if math.isinf(rate) else rate
        json.dump({"format_version": FORMAT_VERSION, "label": "transferred", "options": rows}, sys.stdout, indent=2)
        return
    coder = "bytes over the memory rate" if memory else "those of one processor core (an accelerator: --memory)"
    note = (
        f"Steps to the same loss are those of one small model (docs/links.md); seconds of coding are {coder}. Measure"
    )
    show(
        Text(f"Pick: {made[0].candidate.name}", style="bold"),
        _table(made),
        Text(f"{note} yours before you rely on anything but plain and bf16.", style="dim"),
    )


def _above_zero(option: str, text: str, dimension: str) -> float:
    """The quantity that an option gives; UsageError, which names the option, unless it is one above zero."""
    try:
        value = parse(text, dimension)
    except UsageError as error:
        raise UsageError(error.what, where=option, hint=error.hint) from error
    if not 0.0 < value < math.inf:
        raise UsageError(f"{text!r} is not above zero.", where=option, hint="Give what you have or want.")
    return value


def _table(made: tuple[Option, ...]) -> Table:
    table = plain_table("Exchange", "on the wire", "a step", "steps", "for one step of plain", "pays below")
    for option in made:
        table.add_row(
            option.candidate.name,
            human(option.wire_bytes, "bytes"),
            human_time(option.step_s),
            f"x {option.candidate.steps_factor:.2f}",
            human_time(option.equal_loss_s),
            _below(option),
        )
    return table


def _below(option: Option) -> str:
    rate = option.break_even_bits_per_s
    if option.candidate.name == "plain":
        return ""
    if math.isinf(rate):
        return "any rate"
    return human(rate, "bits_per_s") if rate else "never"
