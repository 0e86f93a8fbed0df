"""Questions beside "which plan": the smallest site for a deadline, is the link enough.

Each is answered by the same search on changed sites; a site that nobody asked about is named, never bought.  Intervals
and labels are those that `why.explain` gives the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from datahall.base.errors import NoPlan, UsageError
from datahall.base.formula import formula
from datahall.base.label import Label
from datahall.base.metric import Metric, chance_below, percentile_90
from datahall.base.result import Result
from datahall.case.named_site import with_nodes
from datahall.case.question import Case, Goal
from datahall.case.site import Site
from datahall.search.rank import Ranking, search
from datahall.search.space import can_be_cut
from datahall.search.why import explain
from datahall.virtual.calibration import Calibration

_MOST_NODES = 4096
_TRIED = 6
_TIGHTENED = 5  # deadlines, until one is kept at the 90th percentile too
_SIZES = 12  # of a site, in one round
_ENOUGH = 1.05  # a link is enough when an endless one would not make the step 5 % faster
_LINK_FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_LEAST_FACTOR = 2.0**-10  # slower links are not tried


GOAL_METRICS = MappingProxyType({"time": "total_time", "cost": "cost", "energy": "energy"})


@dataclass(frozen=True, slots=True)
class Offer:
    """The best plan on one site, at `place` of its ranking: run seconds, dollars and joules."""

    site: Site
    ranking: Ranking
    total_s: float
    cost_usd: float
    energy_j: float
    place: int = 0

    def forecast(self) -> Result:
        """What `datahall plan` says of the plan, each metric with its interval and label."""
        return explain(self.ranking, self.place)

    def goal_value(self, case: Case) -> float:
        """What the case's goal makes small."""
        return {"time": self.total_s, "cost": self.cost_usd, "energy": self.energy_j}[case.goal.minimise]

    def price_to_match(self, cost_usd: float) -> float:
        """USD per device and hour at which this site would cost `cost_usd`."""
        now = self.site.accelerator.price_usd_per_h
        return now * cost_usd / self.cost_usd if self.cost_usd else float("nan")


@dataclass(frozen=True, slots=True)
class LinkStep:
    """The best step with the network between nodes at one rate per device (bytes/s, one direction)."""

    bytes_per_s: float
    step: Metric

    @property
    def step_s(self) -> float:
        """Seconds of the step."""
        return self.step.value


@dataclass(frozen=True, slots=True)
class LinkAnswer:
    """Whether the network between nodes is enough: the best step at several rates and the smallest that is enough."""

    steps: Sequence[LinkStep]
    now: LinkStep
    endless: Metric
    smallest: LinkStep | None

    @property
    def endless_s(self) -> float:
        """Seconds of the step over a network that takes no time."""
        return self.endless.value

    @property
    def enough(self) -> bool:
        """Whether an endless link would make the step less than 5 % faster."""
        return self.now.step_s <= _ENOUGH * self.endless_s


def smallest_site(case: Case, calibration: Calibration, least: int = 1) -> Offer:
    """The fewest nodes of the site's kind that hold the case and end before its deadline; NoPlan if 4,096 do not.

    From `least` on.  Where more than a dozen numbers of nodes are in question, those between two that do not do are
    taken not to either.
    """
    low, high = least - 1, least
    while (found := offer_on(case, with_nodes(case.site, high), calibration)) is None:
        low, high = high, 2 * high
        if high > _MOST_NODES:
            raise _no_site(case)
    while tried := _between(low, high, case):
        for nodes in tried:
            if (smaller := offer_on(case, with_nodes(case.site, nodes), calibration)) is not None:
                found, high = smaller, nodes
                break
            low = nodes
    return found


def sure_site(case: Case, calibration: Calibration, offer: Offer) -> Offer | None:
    """The best plan that fits by the end of its interval too, on this site or a larger one; None: none found."""
    nodes = offer.site.nodes
    for count in (nodes, *_between(nodes, 2 * nodes, case)[:_TRIED], 2 * nodes, 4 * nodes):
        found = offer_on(case, with_nodes(case.site, count), calibration, only_best=False)
        place = None if found is None else found.ranking.roomy()
        if found is not None and place is not None:
            return _offered(found.site, found.ranking, place)
    return None


def likely_site(case: Case, calibration: Calibration, offer: Offer) -> Offer | None:
    """The fewest nodes, from those of the `offer` on, that end before the deadline at the 90th percentile too.

    Their forecast is held against a deadline that is as much shorter as the 90th percentile is later; None: none found.
    """
    deadline_s = case.goal.deadline_s
    for _ in range(_TIGHTENED):
        total = offer.forecast().metrics["total_time"]
        late_s = percentile_90(total)
        if late_s <= deadline_s:
            return offer
        goal = replace(case.goal, deadline_s=deadline_s * total.value / late_s)
        try:
            offer = smallest_site(replace(case, goal=goal), calibration, least=offer.site.nodes)
        except NoPlan:
            return None
    return None


def chances(case: Case, offer: Offer) -> dict[str, float]:
    """How likely an offer keeps each bound of the goal (share), by the bound's key."""
    bounds = {"deadline": case.goal.deadline_s, "budget": case.goal.budget_usd, "energy": case.goal.energy_j}
    metrics = offer.forecast().metrics
    by_bound = zip(bounds.items(), GOAL_METRICS.values(), strict=True)
    return {key: chance_below(metrics[name], bound) for (key, bound), name in by_bound if bound < float("inf")}


def offer_on(case: Case, site: Site, calibration: Calibration, *, only_best: bool = True) -> Offer | None:
    """What a site gives within the deadline and the budget; None where no plan there does.

    Raises Incompatible where its accelerator lacks the precision, or a price or power that the goal asks for: no number
    of nodes changes that.
    """
    try:
        ranking = search(replace(case, site=site), calibration, only_best=only_best)
    except NoPlan:
        return None
    return _offered(site, ranking, 0)


@formula(
    equation="smallest rate B with T(B) <= 1.05 T(infinite)",
    source="datahall; bytes that travel over the seconds of arithmetic that can hide them (REQUIREMENTS N2)",
    holds="the plan may change with the rate: each rate gets its own best plan",
)
def link_enough(case: Case, calibration: Calibration) -> LinkAnswer:
    """Whether the network between nodes is enough for the case; UsageError for one node or domain, which uses none."""
    _refuse_without_network(case.site)
    rate = case.site.scale_out.bytes_per_s
    steps = [LinkStep(factor * rate, _step_at(case, factor, calibration)) for factor in _LINK_FACTORS]
    now, endless = steps[_LINK_FACTORS.index(1.0)], _step_at(case, 1e6, calibration)
    factor = _LINK_FACTORS[0]
    while steps[0].step_s <= _ENOUGH * endless.value and factor > _LEAST_FACTOR:
        factor /= 2.0
        steps.insert(0, LinkStep(factor * rate, _step_at(case, factor, calibration)))
    enough = [step for step in steps if step.step_s <= _ENOUGH * endless.value]
    return LinkAnswer(steps, now, endless, min(enough, key=lambda step: step.bytes_per_s, default=None))


def _refuse_without_network(site: Site) -> None:
    if site.nodes < 2:
        raise UsageError(f"{site.name} is one node: nothing crosses the network.", hint="Give a site of several.")
    if site.devices <= site.scale_up_domain:
        raise UsageError(
            f"{site.name} is one {'torus' if site.scale_up.torus_dims else 'domain'} of {site.scale_up_domain:,}"
            " devices, which their own links join: nothing crosses the network between nodes.",
            hint="Give a site of several such.",
        )


def _step_at(case: Case, factor: float, calibration: Calibration) -> Metric:
    """The fastest plan's step on so many times the rate between nodes; another rate than the site's is a stated one."""
    link = replace(case.site.scale_out, bytes_per_s=factor * case.site.scale_out.bytes_per_s)
    labels = case.site.provenance if factor == 1.0 else {**case.site.provenance, "scale_out": Label.CATALOGUE}
    site = replace(case.site, scale_out=link, provenance=MappingProxyType(dict(labels)))
    ranking = search(replace(case, site=site, goal=Goal()), calibration, only_best=True)
    place = int(np.argmin(ranking.prices.step_s[ranking.order]))
    return explain(ranking, place).metrics["step_time"]


def _offered(site: Site, ranking: Ranking, place: int) -> Offer:
    index, prices = ranking.order[place], ranking.prices
    total, cost, energy = (float(column[index]) for column in (prices.total_s, prices.cost_usd, prices.energy_j))
    return Offer(site, ranking, total, cost, energy, place)


def _no_site(case: Case) -> NoPlan:
    """What no number of nodes does."""
    wanted = ["hold it"]
    wanted += ["end before the deadline"] if case.goal.deadline_s < float("inf") else []
    wanted += ["cost no more than the budget"] if case.goal.budget_usd < float("inf") else []
    wanted += ["draw no more than the bound on energy"] if case.goal.energy_j < float("inf") else []
    hint = "Ask `datahall plan --ask hardware` what would do it." if case.goal.spends else ""
    return NoPlan(f"not even {_MOST_NODES:,} nodes of {case.site.name} {' and '.join(wanted)}.", hint=hint)


def _between(low: int, high: int, case: Case) -> list[int]:
    """Node counts above `low` and below `high` over which the case can be cut, fewest first, at most a dozen."""
    usable = [nodes for nodes in range(low + 1, high) if can_be_cut(case, nodes * case.site.devices_per_node)]
    return usable[:: -(-len(usable) // _SIZES) or 1]
