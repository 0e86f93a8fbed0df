"""`datahall plan --ask site`: the fewest nodes, with what chance they keep the goal, and which keep it nearly always.

The answer comes from `search.ask`; only words are added here.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from datahall.base.metric import percentile_90
from datahall.base.units import human_time
from datahall.case.question import Case
from datahall.report.words import percent
from datahall.search.ask import GOAL_METRICS, Offer, chances, likely_site, smallest_site, sure_site
from datahall.ui.plan_metrics import between, offer_json, resting
from datahall.ui.plan_text import split_text
from datahall.virtual.calibration import Calibration


def site_answer(case: Case, calibration: Calibration) -> tuple[dict[str, Any], Group]:
    """The site as plain JSON values, and in sentences."""
    offer = smallest_site(case, calibration)
    bounded = case.goal.deadline_s < float("inf")
    kept, likely = chances(case, offer), likely_site(case, calibration, offer) if bounded else None
    text = _head(case, offer, bounded)
    text.append(f"{resting([offer.forecast()])} ", style="dim")
    text.append("Forecasts are compared with deadline and memory, not the ends of their intervals.", style="dim")
    if kept:
        text.append(f"\nChance to keep {_listed(kept)}.")
    if bounded:
        text.append(f" {_likely(case, offer, likely)}", style="yellow")
    if offer.ranking.narrow(0):
        surely = _surely(case, calibration, offer)
        text.append(f"\nBy the end of its interval the memory does not fit{surely}.", style="yellow")
    said = {
        "deadline_s": case.goal.deadline_s if bounded else None,
        "offer": offer_json(offer),
        "chances": kept,
        "at_90th_percentile": None if likely is None else offer_json(likely),
    }
    return said, Group(text)


def _head(case: Case, offer: Offer, bounded: bool) -> Text:
    """How many nodes, and what the run takes on them."""
    metrics, text = offer.forecast().metrics, Text()
    total, cost, energy = (metrics[name] for name in GOAL_METRICS.values())
    text.append(f"{offer.site.nodes} node(s) of {offer.site.devices_per_node}", style="bold")
    before = f", before {human_time(case.goal.deadline_s)}" if bounded else ""
    text.append(f" {offer.site.accelerator.name} {'' if bounded else 'hold it and '}end in {between(total)}{before},")
    text.append(f" for {between(cost)}" if cost.value else " at no stated price")
    text.append(f", with {between(energy)}" if energy.value else "")
    text.append(f": {split_text(offer.ranking.compute(0))}.\n")
    return text


def _likely(case: Case, offer: Offer, likely: Offer | None) -> str:
    """Which number of nodes keeps the deadline in nine cases of ten."""
    if likely is None:
        within = " within the other bounds" if case.goal.spends else ""
        return f"No number of nodes that was tried ends before the deadline at the 90th percentile too{within}."
    late = human_time(percentile_90(likely.forecast().metrics["total_time"]))
    nodes = "They" if likely is offer else f"{likely.site.nodes} nodes"
    others = {key: share for key, share in chances(case, likely).items() if key != "deadline"}
    beside = f"; with them {_listed(others)}" if others and likely is not offer else ""
    return f"{nodes} keep the deadline at the 90th percentile too, in {late}{beside}."


def _listed(kept: dict[str, float]) -> str:
    """Chances by bound; none is a certainty, so that none is rounded to one."""
    return ", ".join(f"the {key} {_chance(share)}" for key, share in kept.items())


def _chance(share: float) -> str:
    if share >= 0.995:
        return "over 99 %"
    return percent(share) if share >= 0.01 else "under 1 %"


def _surely(case: Case, calibration: Calibration, offer: Offer) -> str:
    sure = sure_site(case, calibration, offer)
    if sure is None:
        return ""
    where = "another plan on them" if sure.site.nodes == offer.site.nodes else f"a plan on {sure.site.nodes} nodes"
    return f"; {where} does, in {human_time(sure.total_s)}"
