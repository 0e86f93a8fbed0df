"""What more devices bring: the best plan for each size of a site, beside the size whose devices do the most.

The global batch stays what the case says (strong scaling).  How well such forecasts did on published runs is
`calibrate.judge`'s; a machine's own processor is not made larger than it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from datahall.base.errors import NoPlan
from datahall.base.result import Result
from datahall.calibrate.shipped import shipped_runs
from datahall.case.named_site import with_nodes
from datahall.case.question import Case, Goal
from datahall.case.site import Site
from datahall.compute.plan import ComputePlan
from datahall.search.ask import offer_on
from datahall.search.rank import Ranking
from datahall.search.why import COMPONENTS, explain, step_items
from datahall.virtual.calibration import Calibration

_DOUBLINGS = 4  # beyond the site that was asked about
WORTH_SHARE = 0.8  # a device that does less of what it does at best is a poor buy


@dataclass(frozen=True, slots=True)
class Size:
    """The fastest plan on a site of one size, its forecast, and device-seconds of its step by component."""

    site: Site
    plan: ComputePlan
    forecast: Result
    spent_s: Mapping[str, float]

    @property
    def device_s(self) -> float:
        """Seconds of all devices of the site for one step."""
        return self.forecast.metrics["step_time"].value * self.site.devices


@dataclass(frozen=True, slots=True)
class Scaling:
    """Sizes of a site that hold a case, smallest first; `best` is the place of the one whose devices do the most."""

    sizes: tuple[Size, ...]
    best: int

    def kept_share(self, size: Size) -> float:
        """What a device does beside one on the best size."""
        return self.sizes[self.best].device_s / size.device_s

    def lost_to(self, size: Size) -> str:
        """The component that takes the most more of the devices' time for a step than on the best size; "" there."""
        best = self.sizes[self.best]
        if size.device_s <= best.device_s:
            return ""
        return max(COMPONENTS, key=lambda name: size.spent_s[name] - best.spent_s[name])

    @property
    def worth(self) -> Size:
        """The largest size on which a device still does four fifths of the most."""
        return [size for size in self.sizes if self.kept_share(size) >= WORTH_SHARE][-1]


def scaling(case: Case, calibration: Calibration) -> Scaling:
    """Each size of the case's site that holds the case; NoPlan where none does."""
    asked = replace(case, goal=Goal())
    offers = (offer_on(asked, site, calibration) for site in _sizes(case.site))
    sizes = tuple(_size(found.ranking) for found in offers if found is not None)
    if not sizes:
        raise NoPlan(
            f"{case.model.name} fits on no size of {case.site.name} that was tried.",
            hint="Ask `datahall plan --ask site` how many nodes hold it.",
        )
    return Scaling(sizes, min(range(len(sizes)), key=lambda place: sizes[place].device_s))


def _size(ranking: Ranking) -> Size:
    site, plan = ranking.case.site, ranking.compute(0)
    items = step_items(ranking.case, plan, ranking.calibration)
    spent = {name: float(getattr(items, name)) * site.devices for name in COMPONENTS}
    return Size(site, plan, explain(ranking), spent)


def fitted_devices(accelerator: str) -> tuple[int, int] | None:
    """The fewest and the most devices of published runs on an accelerator that the forecast was fitted to."""
    counts = [run.devices for run in shipped_runs()[0] if run.accelerator.name == accelerator]
    return (min(counts), max(counts)) if counts else None


def _sizes(site: Site) -> Iterator[Site]:
    """Parts of a node, then nodes, doubled to 16 times the site's; of a processor up to what there is."""
    devices = site.devices_per_node
    for count in (1 << power for power in range(devices.bit_length())):
        if count < devices and devices % count == 0:
            yield _part(site, count)
    most = site.nodes if site.accelerator.kind == "cpu" else site.nodes << _DOUBLINGS
    counts = {1 << power for power in range(most.bit_length())} | {site.nodes, most}
    yield from (site if count == site.nodes else with_nodes(site, count) for count in sorted(counts))


def _part(site: Site, devices: int) -> Site:
    domain = min(site.scale_up_domain, devices)
    return replace(
        site, nodes=1, devices_per_node=devices, scale_up_domain=domain, name=f"{devices} devices of {site.name}"
    )
