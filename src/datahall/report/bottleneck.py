"""Name the component that binds a step, and the one that deviates from the forecast, if any does.

Blind: only the compared rows are looked at, never what was done to the machine.  A component deviates when it is
above its forecast interval, noise deducted, by a share of the step that matters.  When several do, an effect does not
hide its cause (`_explain`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

STEP_COMPONENTS = ("compute", "transfer", "waiting", "input", "optimiser", "agreeing", "other")
MATTERS_SHARE = 0.05  # of the step: less is not worth a name

CAUSES = {
    "compute": "slow compute",
    "transfer": "a slow link",
    "waiting": "a slow worker",
    "input": "slow input",
    "optimiser": "a slow optimiser step",
    "agreeing": "a slow agreement on who takes part",
    "checkpoint": "a slow disk",
    "other": "work between steps",
}


class ComparedRow(Protocol):
    """What is looked at of a compared metric."""

    @property
    def name(self) -> str: ...
    @property
    def measured(self) -> float: ...
    @property
    def excess(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What binds and what deviates.

    `binding` is the component with the most measured seconds a step and `binding_share` its share of them; it is empty
    where more of the step is not told apart (a log of another program may tell its input alone).  `deviating` is the
    component above its forecast and `cause` what that looks like; both are empty when nothing is.  `excess_s` is
    seconds a step above the interval, `excess_share` the same as a share of the measured step.
    """

    binding: str
    binding_share: float
    deviating: str = ""
    cause: str = ""
    excess_s: float = 0.0
    excess_share: float = 0.0

    @property
    def sentence(self) -> str:
        """The finding in words; empty where too little was measured."""
        if not self.binding:
            return f"{self._above}: {self.cause}" if self.deviating else ""
        binds = f"{self.binding} binds, with {100 * self.binding_share:.0f} % of the step"
        if not self.deviating:
            return f"{binds}; nothing is above its interval by {100 * MATTERS_SHARE:.0f} % of the step"
        return f"{binds}; {self._above}: {self.cause}"

    @property
    def _above(self) -> str:
        return f"{self.deviating} is above its forecast by {100 * self.excess_share:.0f} % of the step"


def find_bottleneck(rows: Iterable[ComparedRow], checkpoint_every_steps: int = 0) -> Bottleneck:
    """The bottleneck of a compared run.  A checkpoint's seconds are spread over the steps between two of them."""
    seconds: dict[str, float] = {}
    excess: dict[str, float] = {}
    whole_s = 0.0
    for row in rows:
        whole_s = row.measured if row.name == "step_time" else whole_s
        share = _per_step(row.name, checkpoint_every_steps)
        if share > 0:
            seconds[row.name] = row.measured * share
            excess[row.name] = row.excess * share
    step_s = sum(seconds.values())
    if step_s <= 0:
        return Bottleneck("", 0.0)
    binding = max(seconds, key=seconds.__getitem__)
    binding_s = seconds[binding]
    if whole_s - step_s > binding_s:
        binding, binding_s, step_s = "", 0.0, whole_s
    found = {name: value for name, value in excess.items() if value >= MATTERS_SHARE * step_s}
    if not found:
        return Bottleneck(binding, binding_s / step_s)
    name = _explain(found)
    return Bottleneck(binding, binding_s / step_s, name, CAUSES[name], found[name], found[name] / step_s)


def _per_step(name: str, checkpoint_every_steps: int) -> float:
    if name == "checkpoint":
        return 1.0 / checkpoint_every_steps if checkpoint_every_steps > 0 else 0.0
    return 1.0 if name in STEP_COMPONENTS else 0.0


def _explain(excess: dict[str, float]) -> str:
    """The name for the largest excess.

    Waiting has a cause: where one worker's input is late, the others wait for it as long, and it is input that is slow.
    Where compute and waiting both grew, one worker computes slowly while the others wait: that is a slow worker, not
    slow compute everywhere (then nobody would wait).
    """
    largest = max(excess, key=excess.__getitem__)
    if largest == "waiting" and excess.get("input", 0.0) >= excess["waiting"] / 2:
        return "input"
    if largest == "compute" and excess.get("waiting", 0.0) >= excess["compute"] / 2:
        return "waiting"
    return largest
