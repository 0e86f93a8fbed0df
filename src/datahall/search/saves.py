"""How checkpoints of many plans are written and what that takes: with which codec, beside training or in its way.

For one case; how often a run fails is its site's, what a save takes `virtual.checkpoints`'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from datahall.case.question import Case
from datahall.compute.numbers import PlanNumbers
from datahall.storage.plan import StoragePlan
from datahall.virtual.checkpoints import CheckpointSeconds, checkpoint_seconds, picked_codec, shards_of
from datahall.virtual.failures import background_interval_s
from datahall.virtual.host_memory import holds_copies

_UNSTATED_INTERVAL_S = 3600.0  # between checkpoints where nobody stated how often devices fail


class Saves:
    """The checkpoints of one case; how a number of devices writes is worked out once."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._known: dict[int, StoragePlan] = {}
        self._asked: tuple[PlanNumbers | None, Any] = (None, True)  # the last plans, and their `beside`

    def beside(self, numbers: PlanNumbers) -> Any:
        """Whether hosts hold the copies of a save beside training; a mask for arrays, True where none are stated."""
        if self._asked[0] is not numbers:
            self._asked = numbers, holds_copies(self._case, numbers)
        return self._asked[1]

    def storage(self, numbers: PlanNumbers, step_s: float) -> StoragePlan:
        """How one plan writes: in the background, unless its hosts may not hold the copies that this takes."""
        beside = bool(self.beside(numbers))
        written = self._beside(int(numbers.devices))
        return replace(written, interval_steps=int(self.interval_steps(numbers, step_s)), asynchronous=beside)

    def seconds(self, numbers: PlanNumbers, hidden_s: Any) -> CheckpointSeconds:
        """What one checkpoint takes, written as `storage` has it; arrays have an element a plan."""
        copies, found = self.beside(numbers), CheckpointSeconds(0.0, 0.0, 0.0, 0.0)
        for devices in {*np.ravel(numbers.devices)}:
            written = self._beside(int(devices))
            for beside in (True, False):
                which = (numbers.devices == devices) & (copies == beside)
                if np.any(which):
                    how = replace(written, asynchronous=beside)
                    found = found.with_those(which, checkpoint_seconds(self._case, how, numbers, hidden_s=hidden_s))
        return found

    def interval_steps(self, numbers: PlanNumbers, step_s: Any) -> Any:
        """Steps between checkpoints, as failures make worth while."""
        rate = self._case.site.failures_per_device_s * numbers.devices
        if self._case.site.failures_per_device_s > 0:
            saved = self.seconds(numbers, step_s)
            best = background_interval_s(saved.cost, saved.write, 1.0 / rate)
        else:
            best = _UNSTATED_INTERVAL_S + 0.0 * numbers.devices
        return np.maximum(1.0, np.rint(best / step_s))

    def _beside(self, devices: int) -> StoragePlan:
        """How so many devices write in the background, with the codec that is fastest."""
        if devices not in self._known:
            shards = int(shards_of(devices))
            codec = picked_codec(self._case, PlanNumbers(data=devices), shards)
            self._known[devices] = StoragePlan(shards=shards, codec=codec, asynchronous=True)
        return self._known[devices]
