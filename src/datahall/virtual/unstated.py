"""What nobody stated widens the interval: the network between nodes, of which a site then has what is usual for it.

The forecast itself stays with the usual network.  Which published run states its network, and what else it leaves open,
is `calibrate`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from datahall.base.label import Label
from datahall.case.question import Case
from datahall.compute.plan import ComputePlan
from datahall.virtual.calibration import WHOLE, Calibration
from datahall.virtual.step_time import StepInputs, StepSeconds

# Of the shipped runs on several nodes of GPUs that state their network, four groups have the usual one, vtrain-multi
# half of it, MaxText on H100 and BLOOM a quarter; none has more.
_POOR = 0.25
NETWORK_NOTE = (
    "Nobody stated the network between nodes: the forecast has the usual one, and its interval reaches to a quarter of"
    " that rate (`site.link`)."
)


@dataclass(frozen=True, slots=True)
class Unsure:
    """A calibration whose intervals also reach so many times further up, by component and as logarithms."""

    calibration: Calibration
    longer: Mapping[str, float]

    @property
    def label(self) -> Label:
        """That of the calibration."""
        return self.calibration.label

    def inputs(self, case: Case, plan: ComputePlan) -> StepInputs:
        """Those of the calibration: what was not stated widens and moves nothing."""
        return self.calibration.inputs(case, plan)

    def spread(self, component: str) -> tuple[float, float]:
        """The calibration's, the upper end joined with what a poor network would add, as if both erred apart."""
        low, high = self.calibration.spread(component)
        return low, math.exp(math.hypot(math.log(high), self.longer.get(component, 0.0)))


def on_poor_network(inputs: StepInputs) -> StepInputs:
    """The same with the poorest network between nodes that an interval reaches to where nobody states one."""
    return replace(inputs, links=replace(inputs.links, out_bytes_per_s=_POOR * inputs.links.out_bytes_per_s))


def network_unstated(case: Case, calibration: Calibration) -> bool:
    """Whether devices meet over a network that is only what is usual, and no run here taught the calibration more."""
    learnt = calibration.label in (Label.MEASURED, Label.CALIBRATED)
    used = case.site.devices > case.site.scale_up_domain
    return used and case.site.label("scale_out") is Label.ASSUMED and not learnt


def unsure_of_network(
    case: Case,
    calibration: Calibration,
    inputs: StepInputs,
    timed: Callable[[StepInputs], StepSeconds],
    seconds: StepSeconds,
) -> Calibration:
    """`calibration`, wider by what a quarter of the usual network would do to a step where nobody stated one.

    `timed` says what the step takes with `inputs` that no plan's exchange has changed yet: it is `seconds` with these.
    """
    if not network_unstated(case, calibration):
        return calibration
    poor = timed(on_poor_network(inputs))
    longer: dict[str, float] = dict.fromkeys(WHOLE, math.log(float(poor.total) / float(seconds.total)))
    if float(seconds.transfer) > 0:
        longer["transfer"] = math.log(float(poor.transfer) / float(seconds.transfer))
    return Unsure(calibration, longer)
