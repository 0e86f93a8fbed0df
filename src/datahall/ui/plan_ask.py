"""`datahall plan --ask`: sites, links, exchanges and checkpoints, each as a short table or as JSON.

The answers come from `search.ask`; only words are added here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from datahall.base.metric import Metric, overlaps, percentile_90
from datahall.base.units import human, human_interval, human_time
from datahall.case.question import Case
from datahall.report.terminal import plain_table, show
from datahall.report.words import percent
from datahall.search.ask import GOAL_METRICS, Offer, chances, likely_site, link_enough, smallest_site, sure_site
from datahall.search.exchanges import exchanges
from datahall.search.hardware import at_the_most, best_sites, catalogue_sites, most_devices
from datahall.search.rank import search
from datahall.search.saving import checkpoint_interval
from datahall.ui.plan_metrics import UNKNOWN, between, cell, metrics_json, resting, unordered
from datahall.ui.plan_scaling import scaling_answer
from datahall.ui.plan_text import split_text
from datahall.virtual.calibration import Calibration

FORMAT_VERSION = 1
_SHOWN = 15  # kinds of hardware; JSON has them all
Answer = tuple[dict[str, Any], Group]


def answer(question: str, case: Case, calibration_of: Callable[[Case], Calibration], *, as_json: bool) -> None:
    """Answer one of the questions beside "which plan"; `calibration_of` a case knows its accelerator."""
    if question == "hardware":
        said, group = _hardware(case, calibration_of)
    else:
        said, group = _ANSWERS[question](case, calibration_of(case))
    if as_json:
        click.echo(json.dumps({"format_version": FORMAT_VERSION, "question": question, **said}, indent=2))
    else:
        show(group)


def _site(case: Case, calibration: Calibration) -> Answer:
    offer = smallest_site(case, calibration)
    bounded = case.goal.deadline_s < float("inf")
    text = Text()
    forecast = offer.forecast()
    total, cost, energy = (forecast.metrics[name] for name in GOAL_METRICS.values())
    text.append(f"{offer.site.nodes} node(s) of {offer.site.devices_per_node}", style="bold")
    before = f", before {human_time(case.goal.deadline_s)}" if bounded else ""
    text.append(f" {offer.site.accelerator.name} {'' if bounded else 'hold it and '}end in {between(total)}{before},")
    text.append(f" for {between(cost)}" if cost.value else " at no stated price")
    text.append(f", with {between(energy)}" if energy.value else "")
    text.append(f": {split_text(offer.ranking.compute(0))}.\n")
    text.append(f"{resting([forecast])} ", style="dim")
    text.append("Forecasts are compared with deadline and memory, not the ends of their intervals.", style="dim")
    kept, likely = chances(case, offer), likely_site(case, calibration, offer) if bounded else None
    if kept:
        text.append(f"\nChance to keep {', '.join(f'the {key} {percent(share)}' for key, share in kept.items())}.")
    if bounded:
        text.append(f" {_likely(case, offer, likely)}", style="yellow")
    if offer.ranking.narrow(0):
        text.append(
            f"\nBy the end of its interval the memory does not fit{_surely(case, calibration, offer)}.", style="yellow"
        )
    said = {
        "deadline_s": case.goal.deadline_s if bounded else None,
        "offer": _offer_json(offer),
        "chances": kept,
        "at_90th_percentile": None if likely is None else _offer_json(likely),
    }
    return said, Group(text)


def _likely(case: Case, offer: Offer, likely: Offer | None) -> str:
    """Which number of nodes keeps the deadline in nine cases of ten."""
    if likely is None:
        within = " within the other bounds" if case.goal.spends else ""
        return f"No number of nodes that was tried ends before the deadline at the 90th percentile too{within}."
    late = human_time(percentile_90(likely.forecast().metrics["total_time"]))
    nodes = "They do" if likely is offer else f"{likely.site.nodes} nodes do"
    return f"{nodes} at the 90th percentile too, in {late}."


def _surely(case: Case, calibration: Calibration, offer: Offer) -> str:
    sure = sure_site(case, calibration, offer)
    if sure is None:
        return ""
    where = "another plan on them" if sure.site.nodes == offer.site.nodes else f"a plan on {sure.site.nodes} nodes"
    return f"; {where} does, in {human_time(sure.total_s)}"


def _hardware(case: Case, calibration_of: Callable[[Case], Calibration]) -> Answer:
    kinds, refused = catalogue_sites(case)
    with click.progressbar(kinds, label="accelerators", file=sys.stderr) as tried:
        offers = best_sites(case, tried, calibration_of)
    first, forecasts = offers[0], [offer.forecast() for offer in offers]
    goals = [forecast.metrics[GOAL_METRICS[case.goal.minimise]] for forecast in forecasts]
    close, like_first = overlaps(goals), [overlaps([goals[0], goal])[1] for goal in goals]
    table = plain_table("Accelerators", "whole run", "cost", "energy", "split, ties at")
    table.columns[4].no_wrap = False
    for offer, forecast, alike in list(zip(offers, forecasts, close, strict=True))[:_SHOWN]:
        match = offer.price_to_match(first.cost_usd)
        total, cost, energy = (forecast.metrics[name] for name in GOAL_METRICS.values())
        ties = "" if offer is first or match != match else f"\n${match:.2f}/h"
        table.add_row(
            f"{UNKNOWN if alike else ' '} {_devices(offer)}\n  {total.label}",
            cell(total),
            cell(cost, "no price"),
            cell(energy, "no figure"),
            f"{split_text(offer.ranking.compute(0))}{ties}",
        )
    left = len(kinds) - len(offers)
    priced = case.goal.minimise != "time" or case.goal.spends
    fail = "cannot hold it, miss the goal or have no figure for it" if priced else "cannot hold it or miss the goal"
    about = f"{left} more {fail}; {refused} are not for training in its precision." if left + refused else ""
    about += " Ties at: the hourly price of a device at which it would cost what the first costs."
    about += _of_the_most(case, offers)
    order = f"{UNKNOWN}: the interval of {case.goal.minimise} overlaps that of the row above, so that which of the two"
    order += (
        f" is better is not known; {sum(like_first) - 1} of {len(offers)} overlap the first. {resting(forecasts)}\n"
    )
    least, most = case.site.devices, most_devices(case)
    counts = f"{least:,}" + (f" to {most:,}" if most > least else "")
    head = Text(f"{case.model.name} on {counts} devices of each kind, least {case.goal.minimise} first\n", style="bold")
    said = [
        {
            **_offer_json(offer),
            "most_tried": at_the_most(case, offer),
            "overlaps_previous": alike,
            "overlaps_first": alike_first and offer is not first,
        }
        for offer, alike, alike_first in zip(offers, close, like_first, strict=True)
    ]
    return {"offers": said, "most_devices": most}, Group(head, table, Text(order), Text(about.strip(), style="dim"))


def _of_the_most(case: Case, offers: list[Offer]) -> str:
    """That the search ended at its own cap, where it did, and not at what the goal bounds."""
    capped = [offer for offer in offers if at_the_most(case, offer)]
    if not capped:
        return ""
    bounds = {"money": case.goal.budget_usd, "energy": case.goal.energy_j, "the deadline": case.goal.deadline_s}
    named = " and ".join(name for name, bound in bounds.items() if bound < float("inf"))
    return (
        f" {len(capped)} of {len(offers)} are on {most_devices(case):,} devices, the most that were tried: that cap"
        f" ended the search, not {named}, and more devices may serve better. Name a larger site to try more."
    )


def _devices(offer: Offer) -> str:
    """ "8 x A40", or "2 of 8 x A40" where the best plan leaves some idle."""
    used, there = offer.ranking.compute(0).devices, offer.site.devices
    return f"{'' if used == there else f'{used} of '}{there} x {offer.site.accelerator.name}"


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
    by = "Daly" if found.daly_s > found.write_s else "one begins when the one before has ended"
    text = Text()
    written, held, slowed, interval = found.metrics
    text.append(f"Every {human_time(found.daly_s)} ({found.daly_steps:,} steps)", style="bold")
    text.append(f" ({human_interval(interval.low, interval.high, 'seconds')})")
    beside = f"holds for {between(held)} and slows by {between(slowed)}"
    how = f"beside training, which it {beside}" if found.beside else "while training waits (hosts may not hold copies)"
    text.append(
        f": a checkpoint takes {between(written)} to write, {how};"
        f" some device fails every {human_time(found.between_failures_s)}"
        f" ({by}; Young says {human_time(found.young_s)}).\n"
        f"{found.codec_why}\n"
    )
    text.append(
        f"Intervals are of 90 %; writing rests on {written.label} figures, how often on {interval.label} ones.\n"
    )
    table = plain_table("Every", "time lost", "90 % interval")
    for (every, share), lost in zip(found.lost_shares, found.lost, strict=True):
        ends = f"{100 * lost.low:.2f} to {100 * lost.high:.2f} %"
        table.add_row(human_time(every), f"{100 * share:.2f} %", ends, style="bold" if every == found.daly_s else "")
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


def _offer_json(offer: Offer) -> dict[str, Any]:
    compute = offer.ranking.compute(offer.place)
    return {
        "site": offer.site.name,
        "accelerator": offer.site.accelerator.name,
        "nodes": offer.site.nodes,
        "devices": offer.site.devices,
        "total_s": offer.total_s,
        "cost_usd": offer.cost_usd,
        "energy_j": offer.energy_j,
        "metrics": metrics_json(offer.forecast()),
        "plan": {name: getattr(compute, name) for name in compute.__dataclass_fields__},
    }


_ANSWERS: dict[str, Callable[[Case, Calibration], Answer]] = {
    "site": _site,
    "link": _link,
    "checkpoint": _checkpoint,
    "exchange": _exchange,
    "scaling": scaling_answer,
}
