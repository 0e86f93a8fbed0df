"""`datahall plan --ask hardware`: the accelerators of the catalogue by the goal, and how far their order is known.

The answer comes from `search.hardware`; only words are added here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from datahall.base.metric import overlaps
from datahall.base.result import Result
from datahall.case.question import Case
from datahall.report.terminal import plain_table
from datahall.search.ask import GOAL_METRICS, Offer
from datahall.search.hardware import at_the_most, best_sites, catalogue_sites, most_devices
from datahall.ui.plan_metrics import UNKNOWN, cell, offer_json, resting
from datahall.ui.plan_text import split_text
from datahall.virtual.calibration import Calibration

_OWNED = "cost of ownership"
_SHOWN = 15  # kinds; JSON has them all


def hardware_answer(case: Case, calibration_of: Callable[[Case], Calibration]) -> tuple[dict[str, Any], Group]:
    """The offers as plain JSON values, and as a page for a terminal; `calibration_of` a case knows its accelerator."""
    kinds, refused = catalogue_sites(case)
    with click.progressbar(kinds, label="accelerators", file=sys.stderr) as tried:
        offers = best_sites(case, tried, calibration_of)
    forecasts = [offer.forecast() for offer in offers]
    goals = [forecast.metrics[GOAL_METRICS[case.goal.minimise]] for forecast in forecasts]
    close, like_first = overlaps(goals), [False, *(overlaps([goals[0], goal])[1] for goal in goals[1:])]
    said = [
        {
            **offer_json(offer),
            "price_basis": offer.site.accelerator.price_basis,
            "most_tried": at_the_most(case, offer),
            "overlaps_previous": alike,
            "overlaps_first": alike_first,
        }
        for offer, alike, alike_first in zip(offers, close, like_first, strict=True)
    ]
    order = f"{UNKNOWN}: the interval of {case.goal.minimise} overlaps that of the row above, so that which of the two"
    order += f" is better is not known; {sum(like_first)} of {len(offers)} overlap the first. {resting(forecasts)}\n"
    left = _left(case, len(kinds) - len(offers), refused)
    foot = f"{left} Ties at: the hourly price of a device at which it would cost what the first costs."
    foot += _of_the_most(case, offers) + _of_the_prices(offers)
    shown = Group(_head(case), _table(offers, forecasts, close), Text(order), Text(foot.strip(), style="dim"))
    return {"offers": said, "most_devices": most_devices(case)}, shown


def _head(case: Case) -> Text:
    least, most = case.site.devices, most_devices(case)
    counts = f"{least:,}" + (f" to {most:,}" if most > least else "")
    return Text(f"{case.model.name} on {counts} devices of each kind, least {case.goal.minimise} first\n", style="bold")


def _table(offers: Sequence[Offer], forecasts: Sequence[Result], close: Sequence[bool]) -> Table:
    """The first offers, those marked that are not known to be worse than the row above."""
    first = offers[0]
    table = plain_table("Accelerators", "whole run", "cost", "energy", "split, ties at")
    table.columns[4].no_wrap = False
    for offer, forecast, alike in list(zip(offers, forecasts, close, strict=True))[:_SHOWN]:
        match = offer.price_to_match(first.cost_usd)
        total, cost, energy = (forecast.metrics[name] for name in GOAL_METRICS.values())
        ties = "" if offer is first or match != match else f"\n${match:.2f}/h"
        table.add_row(
            f"{UNKNOWN if alike else ' '} {_devices(offer)}\n  {total.label}",
            cell(total),
            _marked(offer, cell(cost, "no price")),
            cell(energy, "no figure"),
            f"{split_text(offer.ranking.compute(0))}{ties}",
        )
    return table


def _left(case: Case, left: int, refused: int) -> str:
    """Kinds that are not offered, and why."""
    priced = case.goal.minimise != "time" or case.goal.spends
    fail = "cannot hold it, miss the goal or have no figure for it" if priced else "cannot hold it or miss the goal"
    return f"{left} more {fail}; {refused} are not for training in its precision." if left + refused else ""


def _of_the_most(case: Case, offers: Sequence[Offer]) -> str:
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


def _marked(offer: Offer, cost: str) -> str:
    """The cost, marked where its price is another kind of figure than what clouds ask."""
    return cost.replace("\n", "*\n", 1) if offer.site.accelerator.price_basis == _OWNED else cost


def _of_the_prices(offers: Sequence[Offer]) -> str:
    """That dollars of marked rows are not those of the others, where there are marked ones."""
    if all(offer.site.accelerator.price_basis != _OWNED for offer in offers):
        return ""
    return (
        f" *: at the {_OWNED}, other rows at what clouds ask or the case states. The first is lower, so that"
        " costs of the two kinds do not compare; state `price_per_device_hour` for yours."
    )


def _devices(offer: Offer) -> str:
    """ "8 x A40", or "2 of 8 x A40" where the best plan leaves some idle."""
    used, there = offer.ranking.compute(0).devices, offer.site.devices
    return f"{'' if used == there else f'{used} of '}{there} x {offer.site.accelerator.name}"
