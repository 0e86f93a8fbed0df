"""Which hardware serves a case best: the search of its plan on each accelerator of the catalogue, in several numbers.

Sites that a user may own already are not known here; `search.ask` looks at sizes of the case's own kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from datahall.base.errors import DatahallError, Incompatible, NoPlan
from datahall.case.named_site import site_from_text
from datahall.case.question import Case
from datahall.case.quick import check_precision
from datahall.case.site import Site
from datahall.catalog import accelerators
from datahall.search.ask import Offer, offer_on
from datahall.virtual.calibration import Calibration

_TIMES = (1, 2, 4, 8, 16)  # the devices that the case's site has


def catalogue_sites(case: Case) -> tuple[list[Sequence[Site]], int]:
    """Sites of each accelerator of the catalogue, smallest first, and how many kinds cannot be used.

    They have as many devices as the case's site; where the goal bounds them up to 16 times as many too.
    """
    sites: list[Sequence[Site]] = []
    refused = 0
    times = _TIMES if _bounded(case) else (1,)
    for name in accelerators.names():
        entry = accelerators.accelerator(name)
        wanted = case.application.precision or ("bf16" if "bf16" in entry.peak_flops_per_s else "fp16")
        if entry.kind == "cpu" or wanted not in entry.peak_flops_per_s:
            refused += 1
            continue
        try:
            sizes = [site_from_text(f"{count * case.site.devices}x{name}")[0] for count in times]
            check_precision(case.application.precision, sizes[0])
            sites.append(sizes)
        except DatahallError:
            refused += 1
    return sites, refused


def best_sites(
    case: Case, kinds: Iterable[Sequence[Site]], calibration_of: Callable[[Case], Calibration]
) -> list[Offer]:
    """What each of several kinds of site gives within the deadline and the budget, best for the goal first.

    A kind is a site in some sizes, smallest first: a larger one is tried as long as none met the goal, or the last one
    served it better than the one before.  `calibration_of` a case is asked for each site: what was fitted to one
    accelerator says nothing of another.
    """
    offers = [offer for sizes in kinds if (offer := _best_size(case, sizes, calibration_of)) is not None]
    if not offers:
        raise NoPlan("no site that was tried meets the goal.", hint="Allow more time or money.")
    return sorted(offers, key=lambda offer: offer.goal_value(case))


def most_devices(case: Case) -> int:
    """The most devices of one kind that are tried."""
    return case.site.devices * (_TIMES[-1] if _bounded(case) else 1)


def at_the_most(case: Case, offer: Offer) -> bool:
    """Whether an offer has the most devices that are tried, so that more might serve the goal better."""
    return _bounded(case) and offer.site.devices >= most_devices(case)


def _best_size(case: Case, sizes: Sequence[Site], calibration_of: Callable[[Case], Calibration]) -> Offer | None:
    best: Offer | None = None
    for site in sizes:
        found = _offer(case, site, calibration_of(replace(case, site=site)))
        if best is not None and (found is None or found.goal_value(case) >= best.goal_value(case)):
            break
        best = found
    return best


def _offer(case: Case, site: Site, calibration: Calibration) -> Offer | None:
    """What a site gives; None as well where its accelerator has no figure that the goal asks for: it is one of many."""
    try:
        return offer_on(case, site, calibration)
    except Incompatible:
        return None


def _bounded(case: Case) -> bool:
    """Whether the goal says how many devices are too many: else more would be faster, fewer cheaper, without end."""
    return case.goal.spends if case.goal.minimise == "time" else case.goal.deadline_s < float("inf")
