"""`datahall plan --ask`: sites, links, exchanges and checkpoints, each as a short table or as JSON.

The answers come from `search.ask`; only words are added here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from datahall.base.metric import Metric, overlaps
from datahall.base.units import human, human_interval, human_time
from datahall.case.question import Case
from datahall.report.terminal import plain_table, show
from datahall.report.words import percent
from datahall.search.ask import link_enough
from datahall.search.exchanges import exchanges
from datahall.search.rank import search
from datahall.search.saving import checkpoint_interval
from datahall.ui.plan_hardware import hardware_answer
from datahall.ui.plan_metrics import between, cell, unordered
from datahall.ui.plan_scaling import scaling_answer
from datahall.ui.plan_site import site_answer
from datahall.ui.plan_text import split_text
from datahall.virtual.calibration import Calibration

FORMAT_VERSION = 1
Answer = tuple[dict[str, Any], Group]


def answer(question: str, case: Case, calibration_of: Callable[[Case], Calibration], *, as_json: bool) -> None:
    """Answer one of the questions beside "which plan"; `calibration_of` a case knows its accelerator."""
    if question == "hardware":
        said, group = hardware_answer(case, calibration_of)
    else:
        said, group = _ANSWERS[question](case, calibration_of(case))
    if as_json:
        click.echo(json.dumps({"format_version": FORMAT_VERSION, "question": question, **said}, indent=2))
    else:
        show(group)


def _link(case: Case, calibration: Calibration) -> Answer:
    found = link_enough(case, calibration)
    verdict = "is enough" if found.enough else "is not enough"
    text = Text()
    text.append(f"{human(8 * found.now.bytes_per_s, 'count')}b/s a device {verdict}", style="bold")
    gain = found.now.step_s / found.endless_s - 1.0
    text.append(f": an endless network would make the step {percent(gain)} faster.\n")
    if found.smallest is None:
        text.append("No rate that was tried comes within 5 % of an endless one.\n")
    else:
        most = " (less was not tried)" if found.smallest == found.steps[0] else ""
        text.append(f"The least that is enough: {human(8 * found.smallest.bytes_per_s, 'count')}b/s a device{most}.\n")
    table = plain_table("Rate a device", "best step", "90 % interval", "rests on", "of an endless link")
    for step in found.steps:
        marked = "bold" if step == found.now else ""
        rate = f"{human(8 * step.bytes_per_s, 'count')}b/s"
        ends = human_interval(step.step.low, step.step.high, "seconds")
        share = f"{step.step_s / found.endless_s:.3f} x"
        table.add_row(rate, human_time(step.step_s), ends, str(step.step.label), share, style=marked)
    about = unordered([step.step for step in found.steps], "steps")
    said = {
        "enough": found.enough,
        "now_bytes_per_s": found.now.bytes_per_s,
        "smallest_bytes_per_s": None if found.smallest is None else found.smallest.bytes_per_s,
        **_step_json(found.endless, "endless_"),
        "steps": [
            {"bytes_per_s": step.bytes_per_s, **_step_json(step.step), "overlaps_previous": alike}
            for step, alike in zip(found.steps, overlaps([step.step for step in found.steps]), strict=True)
        ],
    }
    return said, Group(text, table, Text(f"{about} They share the error of one calibration.", style="dim"))


def _step_json(step: Metric, before: str = "") -> dict[str, Any]:
    ends = {f"low_{before}step_s": step.low, f"high_{before}step_s": step.high}
    return {f"{before}step_s": step.value, **ends, f"{before}label": str(step.label)}


def _checkpoint(case: Case, calibration: Calibration) -> Answer:
    found = checkpoint_interval(search(case, calibration, only_best=True))
    by = "by Daly" if found.daly_s > found.write_s else "one begins when the one before has ended"
    text = Text()
    written, held, slowed, interval, between_failures = found.metrics
    text.append(f"Every {human_time(found.daly_s)} ({found.daly_steps:,} steps)", style="bold")
    ends = human_interval(interval.low, interval.high, "seconds")
    text.append(f" ({ends}; {by}; Young says {human_time(found.young_s)})")
    beside = f"holds for {between(held)} and slows by {between(slowed)}"
    how = f"beside training, which it {beside}" if found.beside else "while training waits (hosts may not hold copies)"
    text.append(
        f": a checkpoint takes {between(written)} to write, {how}; some device fails every"
        f" {_failing(between_failures)}.\n{found.codec_why}\n"
    )
    text.append(
        f"Intervals are of 90 %; writing rests on {written.label} figures, how often on {interval.label} ones.\n"
    )
    table = plain_table("Every", "time lost", "90 % interval")
    for every, lost in zip((every for every, _ in found.lost_shares), found.lost, strict=True):
        ends = f"{_lost_share(lost.low)} to {_lost_share(lost.high)}"
        table.add_row(human_time(every), _lost_share(lost.value), ends, style="bold" if every == found.daly_s else "")
    said = {
        "interval_s": found.daly_s,
        "interval_steps": found.daly_steps,
        "young_s": found.young_s,
        "write_s": found.write_s,
        "stall_s": found.stall_s,
        "slowed_s": found.slowed_s,
        "beside": found.beside,
        "codec": found.codec,
        "codec_why": found.codec_why,
        "between_failures_s": found.between_failures_s,
        "metrics": [metric.to_json() for metric in found.metrics],
        "lost_shares": [
            {
                "interval_s": every,
                "lost_share": share,
                "low_lost_share": lost.low,
                "high_lost_share": lost.high,
                "label": str(lost.label),
            }
            for (every, share), lost in zip(found.lost_shares, found.lost, strict=True)
        ],
    }
    return said, Group(text, table)


def _failing(between_failures: Metric) -> str:
    """Every how long some device fails, and that nobody knows it better, where nobody stated it."""
    if between_failures.low == between_failures.high:
        return human_time(between_failures.value)
    return f"{between(between_failures)}: nobody stated how often, so half to double is assumed"


def _lost_share(share: float) -> str:
    """A share in percent in two digits, however small: "0.0042 %"."""
    least = 1e-6
    return f"{100 * share:.2g} %" if share >= least else f"under {100 * least:.4f} %"


def _exchange(case: Case, calibration: Calibration) -> Answer:
    offers = exchanges(case, calibration)
    first = offers[0]
    text = Text()
    text.append(f"{first.name}", style="bold")
    text.append(f" reaches the loss first, with {split_text(first.plan.compute)}.\n")
    text.append("Steps to the same loss are of one small model (docs/links.md): measure yours.\n", style="dim")
    table = plain_table("Exchange", "handed over a step", "transfer", "a step", "time for one step of plain")
    for offer in offers:
        step, transfer, equal = offer.metrics
        table.add_row(offer.name, human(offer.handed_bytes, "bytes"), cell(transfer), cell(step), cell(equal))
    times = [offer.metrics[2] for offer in offers]
    labels = " or ".join(str(label) for label in sorted({one.label for one in times}))
    about = f"Intervals are of 90 % and rest on {labels} figures. {unordered(times, 'times')}"
    said = [
        {
            **{name: value for name, value in asdict(offer).items() if name != "metrics"},
            "plan": offer.plan.to_json(),
            "metrics": [metric.to_json() for metric in offer.metrics],
            "overlaps_previous": alike,
        }
        for offer, alike in zip(offers, overlaps(times), strict=True)
    ]
    return {"offers": said}, Group(text, table, Text(about, style="dim"))


_ANSWERS: dict[str, Callable[[Case, Calibration], Answer]] = {
    "site": site_answer,
    "link": _link,
    "checkpoint": _checkpoint,
    "exchange": _exchange,
    "scaling": scaling_answer,
}
