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

from datahall.base.units import human, human_time
from datahall.case.question import Case
from datahall.report.terminal import plain_table, show
from datahall.report.words import percent
from datahall.search.ask import Offer, checkpoint_interval, link_enough, smallest_site, sure_site
from datahall.search.exchanges import exchanges
from datahall.search.hardware import at_the_most, best_sites, catalogue_sites, most_devices
from datahall.search.rank import search
from datahall.ui.plan_scaling import scaling_answer
from datahall.ui.plan_text import split_text
from datahall.virtual.calibration import Calibration

FORMAT_VERSION = 1
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
    text.append(f"{offer.site.nodes} node(s) of {offer.site.devices_per_node}", style="bold")
    before = f"end in {human_time(offer.total_s)}, before {human_time(case.goal.deadline_s)}," if bounded else "hold it"
    text.append(f" {offer.site.accelerator.name} {before}")
    if not bounded:
        text.append(f" and end in {human_time(offer.total_s)},")
    cost = f"for {human(offer.cost_usd, 'usd')}" if offer.cost_usd else "at no stated price"
    text.append(f" {cost}: {split_text(offer.ranking.compute(0))}.\n")
    text.append("Forecasts are compared with deadline and memory, not the ends of their intervals.", style="dim")
    if offer.ranking.narrow(0):
        text.append(
            f"\nBy the end of its interval the memory does not fit{_surely(case, calibration, offer)}.", style="yellow"
        )
    return {"deadline_s": case.goal.deadline_s if bounded else None, "offer": _offer_json(offer)}, Group(text)


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
    first = offers[0]
    table = plain_table("Accelerators", "whole run", "cost", "energy", "split", "ties at")
    for offer in offers[:15]:
        match = offer.price_to_match(first.cost_usd)
        table.add_row(
            _devices(offer),
            human_time(offer.total_s),
            human(offer.cost_usd, "usd") if offer.cost_usd else "no price",
            human(offer.energy_j, "joules") if offer.energy_j else "no figure",
            split_text(offer.ranking.compute(0)),
            "" if offer is first or match != match else f"${match:.2f}/h",
        )
    left = len(kinds) - len(offers)
    priced = case.goal.minimise != "time" or case.goal.spends
    fail = "cannot hold it, miss the goal or have no figure for it" if priced else "cannot hold it or miss the goal"
    about = f"{left} more {fail}; {refused} are not for training in its precision." if left + refused else ""
    about += " Ties at: the hourly price of a device at which it would cost what the first costs."
    about += _of_the_most(case, offers)
    least, most = case.site.devices, most_devices(case)
    counts = f"{least:,}" + (f" to {most:,}" if most > least else "")
    head = Text(f"{case.model.name} on {counts} devices of each kind, least {case.goal.minimise} first\n", style="bold")
    said = [{**_offer_json(offer), "most_tried": at_the_most(case, offer)} for offer in offers]
    return {"offers": said, "most_devices": most}, Group(head, table, Text(about.strip(), style="dim"))


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
    table = plain_table("Rate a device", "best step", "of an endless link")
    for step in found.steps:
        marked = "bold" if step == found.now else ""
        rate = f"{human(8 * step.bytes_per_s, 'count')}b/s"
        table.add_row(rate, human_time(step.step_s), f"{step.step_s / found.endless_s:.3f} x", style=marked)
    said = {
        "enough": found.enough,
        "now_bytes_per_s": found.now.bytes_per_s,
        "smallest_bytes_per_s": None if found.smallest is None else found.smallest.bytes_per_s,
        "endless_step_s": found.endless_s,
        "steps": [{"bytes_per_s": step.bytes_per_s, "step_s": step.step_s} for step in found.steps],
    }
    return said, Group(text, table)


def _checkpoint(case: Case, calibration: Calibration) -> Answer:
    found = checkpoint_interval(search(case, calibration, only_best=True))
    by = "Daly" if found.daly_s > found.write_s else "one begins when the one before has ended"
    text = Text()
    text.append(f"Every {human_time(found.daly_s)} ({found.daly_steps:,} steps)", style="bold")
    beside = f"holds for {human_time(found.stall_s)} and slows by {human_time(found.slowed_s)}"
    how = f"beside training, which it {beside}" if found.beside else "while training waits (hosts may not hold copies)"
    text.append(
        f": a checkpoint takes {human_time(found.write_s)} to write, {how};"
        f" some device fails every {human_time(found.between_failures_s)}"
        f" ({by}; Young says {human_time(found.young_s)}).\n"
        f"{found.codec_why}\n"
    )
    table = plain_table("Every", "time lost")
    for interval, share in found.lost_shares:
        table.add_row(human_time(interval), f"{100 * share:.2f} %", style="bold" if interval == found.daly_s else "")
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
        "lost_shares": [{"interval_s": interval, "lost_share": share} for interval, share in found.lost_shares],
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
        table.add_row(
            offer.name,
            human(offer.handed_bytes, "bytes"),
            human_time(offer.transfer_s),
            human_time(offer.step_s),
            human_time(offer.equal_loss_s),
        )
    said = [{**asdict(offer), "plan": offer.plan.to_json()} for offer in offers]
    return {"offers": said}, Group(text, table)


def _offer_json(offer: Offer) -> dict[str, Any]:
    compute = offer.ranking.compute(0)
    return {
        "site": offer.site.name,
        "accelerator": offer.site.accelerator.name,
        "nodes": offer.site.nodes,
        "devices": offer.site.devices,
        "total_s": offer.total_s,
        "cost_usd": offer.cost_usd,
        "energy_j": offer.energy_j,
        "plan": {name: getattr(compute, name) for name in compute.__dataclass_fields__},
    }


_ANSWERS: dict[str, Callable[[Case, Calibration], Answer]] = {
    "site": _site,
    "link": _link,
    "checkpoint": _checkpoint,
    "exchange": _exchange,
    "scaling": scaling_answer,
}
