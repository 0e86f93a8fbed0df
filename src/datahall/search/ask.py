"""Questions beside "which plan": the smallest site for a deadline, is the link enough, how often to write checkpoints.

Each is answered by the same search on changed sites; a site that nobody asked about is named, never bought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from datahall.base.errors import Incompatible, NoPlan, UsageError
from datahall.base.formula import formula
from datahall.case.named_site import with_nodes
from datahall.case.question import Case, Goal
from datahall.case.site import Site
from datahall.compute.numbers import PlanNumbers
from datahall.search.rank import Ranking, search
from datahall.search.space import can_be_cut
from datahall.virtual.calibration import Calibration
from datahall.virtual.checkpoints import checkpoint_seconds, codec_sentence
from datahall.virtual.failures import background_interval_s, wall_over_work, young_interval_s
from datahall.virtual.training import RESTART_S

_MOST_NODES = 4096
_TRIED = 6
_SIZES = 12  # of a site, in one round
_ENOUGH = 1.05  # a link is enough when an endless one would not make the step 5 % faster
_LINK_FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_LEAST_FACTOR = 2.0**-10  # slower links are not tried


@dataclass(frozen=True, slots=True)
class Offer:
    """The best plan on one site: run seconds, dollars and joules."""

    site: Site
    ranking: Ranking
    total_s: float
    cost_usd: float
    energy_j: float

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
    step_s: float


@dataclass(frozen=True, slots=True)
class LinkAnswer:
    """Whether the network between nodes is enough: the best step at several rates and the smallest that is enough."""

    steps: Sequence[LinkStep]
    now: LinkStep
    endless_s: float
    smallest: LinkStep | None

    @property
    def enough(self) -> bool:
        """Whether an endless link would make the step less than 5 % faster."""
        return self.now.step_s <= _ENOUGH * self.endless_s


@dataclass(frozen=True, slots=True)
class CheckpointAnswer:
    """How often to write checkpoints, seconds of work apart, and what each choice costs (share of the time).

    A checkpoint is under way for `write_s`; it holds the loop for `stall_s` and makes steps longer by `slowed_s`.
    `beside` is whether it is written beside training.
    """

    write_s: float
    stall_s: float
    slowed_s: float
    between_failures_s: float
    young_s: float
    daly_s: float
    daly_steps: int
    lost_shares: Sequence[tuple[float, float]]  # interval in seconds, share of the wall time that is not training
    codec: str
    codec_why: str
    beside: bool


def smallest_site(case: Case, calibration: Calibration) -> Offer:
    """The fewest nodes of the site's kind that hold the case and end before its deadline; NoPlan if 4,096 do not.

    Where more than a dozen numbers of nodes are in question, those between two that do not do are taken not to either.
    """
    low, high = 0, 1
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


def offer_on(case: Case, site: Site, calibration: Calibration, *, only_best: bool = True) -> Offer | None:
    """What a site gives within the deadline and the budget; None where no plan there does."""
    try:
        ranking = search(replace(case, site=site), calibration, only_best=only_best)
    except (NoPlan, Incompatible):
        return None
    return _offered(site, ranking, 0)


@formula(
    equation="smallest rate B with T(B) <= 1.05 T(infinite)",
    source="datahall; bytes that travel over the seconds of arithmetic that can hide them (REQUIREMENTS N2)",
    holds="the plan may change with the rate: each rate gets its own best plan",
)
def link_enough(case: Case, calibration: Calibration) -> LinkAnswer:
    """Whether the network between nodes is enough for the case; UsageError for a single node, which uses none."""
    if case.site.nodes < 2:
        raise UsageError(f"{case.site.name} is one node: nothing crosses the network.", hint="Give a site of several.")
    rate = case.site.scale_out.bytes_per_s
    steps = [LinkStep(factor * rate, _step_at(case, factor * rate, calibration)) for factor in _LINK_FACTORS]
    now, endless = steps[_LINK_FACTORS.index(1.0)], _step_at(case, 1e6 * rate, calibration)
    while steps[0].step_s <= _ENOUGH * endless and steps[0].bytes_per_s > _LEAST_FACTOR * rate:
        slower = steps[0].bytes_per_s / 2.0
        steps.insert(0, LinkStep(slower, _step_at(case, slower, calibration)))
    enough = [step for step in steps if step.step_s <= _ENOUGH * endless]
    return LinkAnswer(steps, now, endless, min(enough, key=lambda step: step.bytes_per_s, default=None))


def checkpoint_interval(ranking: Ranking) -> CheckpointAnswer:
    """How often the best plan should write checkpoints; UsageError where nobody stated how often devices fail."""
    case, plan = ranking.case, ranking.plan()
    if case.site.failures_per_device_s <= 0:
        raise UsageError(
            "how often to write depends on how often devices fail, which the site does not state.",
            hint='Say --set "site.mtbf_per_device=5 years", or what you saw.',
        )
    between = 1.0 / (case.site.failures_per_device_s * plan.compute.devices)
    numbers = PlanNumbers.of(plan.compute)
    step_s = float(ranking.prices.step_s[ranking.order[0]])
    written = checkpoint_seconds(case, plan.storage, numbers, hidden_s=step_s)
    write, cost = float(written.write), float(written.cost)
    best = float(background_interval_s(cost, write, between))
    tried = [best * factor for factor in (0.1, 0.3, 1.0, 3.0, 10.0) if best * factor >= min(write, best)]
    lost = [(interval, 1.0 - 1.0 / float(wall_over_work(interval, cost, RESTART_S, between))) for interval in tried]
    young = float(young_interval_s(cost, between))
    why = codec_sentence(case, plan.storage, numbers)
    held, slowed, steps = float(written.stall), float(written.slowed), max(1, round(best / step_s))
    how = plan.storage
    return CheckpointAnswer(write, held, slowed, between, young, best, steps, lost, how.codec, why, how.asynchronous)


def _step_at(case: Case, bytes_per_s: float, calibration: Calibration) -> float:
    link = replace(case.site.scale_out, bytes_per_s=bytes_per_s)
    ranking = search(replace(case, site=replace(case.site, scale_out=link), goal=Goal()), calibration, only_best=True)
    return float(ranking.prices.step_s.min())


def _offered(site: Site, ranking: Ranking, place: int) -> Offer:
    index, prices = ranking.order[place], ranking.prices
    columns = (prices.total_s, prices.cost_usd, prices.energy_j)
    return Offer(site, ranking, *(float(column[index]) for column in columns))


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
