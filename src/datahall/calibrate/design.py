"""Published runs as arrays, and one call that forecasts all of them for given constants.

A run with several readings is several elements; its forecast is their weighted mean.  Fitting is `fit`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.calibrate.published import PublishedRun
from datahall.case.named_site import accelerator_of
from datahall.compute.adapters import AdapterNumbers, trained_parameters
from datahall.compute.counts import ShapeCounts, stack_counts
from datahall.compute.numbers import PlanNumbers, stack_plans
from datahall.virtual.constants import expected
from datahall.virtual.pricing import Setting, setting_of, stack_settings, step_inputs
from datahall.virtual.step_time import StepInputs, StepSeconds, step_time
from datahall.virtual.training import held_bytes
from datahall.virtual.unstated import on_poor_network

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Design:
    """All variants of some runs as arrays; `owner` is the run of each variant."""

    counts: ShapeCounts
    sequence: Floats
    plans: PlanNumbers
    setting: Setting
    adapters: AdapterNumbers  # all zero where the whole model is trained
    trainable_share: Floats
    owner: NDArray[np.int64]  # rising
    weight: Floats
    scale: Floats  # the run's batch over the variant's
    runs: int

    def seconds(self, constants: Mapping[str, Any]) -> Floats:
        """Forecast seconds of each run's step; of columns of constants, a row for each of their values."""
        return self.mean(self.scale * self.steps(constants).total)

    def steps(self, constants: Mapping[str, Any]) -> StepSeconds:
        """Forecast of each variant, by component."""
        return step_time(self._inputs(constants), self.plans)

    def longer_on_poor_network(self, constants: Mapping[str, float]) -> Floats:
        """How much longer, as logarithms, each run's step would be on the poorest network that is reckoned with."""
        poor = step_time(on_poor_network(self._inputs(constants)), self.plans)
        return np.log(self.mean(self.scale * poor.total) / self.seconds(constants))

    def peak_bytes(self) -> Floats:
        """Forecast peak memory of a device of each run; no constant moves it."""
        return self.mean(held_bytes(self._inputs(expected()), self.plans).total)

    def mean(self, values: Floats) -> Floats:
        """The weighted mean over each run's variants, along the last axis."""
        first = np.flatnonzero(np.diff(self.owner, prepend=-1))
        return np.asarray(np.add.reduceat(self.weight * values, first, axis=-1), dtype=np.float64)

    def spread(self, values: Floats) -> Floats:
        """Half the range of the logarithm over each run's variants: what its blanks leave open."""
        low, high = np.full(self.runs, np.inf), np.full(self.runs, -np.inf)
        np.minimum.at(low, self.owner, np.log(values))
        np.maximum.at(high, self.owner, np.log(values))
        return 0.5 * (high - low)

    def likely_readings(self, values: Floats, outside: float) -> tuple[Floats, Floats]:
        """The least and the greatest of each run's variants that at most this share of its weight lies beyond."""
        order = np.lexsort((values, self.owner))
        ranked, weight = values[order], self.weight[order]
        first = np.flatnonzero(np.diff(self.owner, prepend=-1))
        total = self.mean(np.ones_like(values))[self.owner]
        below = np.cumsum(weight) - weight
        below = (below - below[first][self.owner]) / total
        above = 1.0 - below - weight / total
        low = np.minimum.reduceat(np.where(below + weight / total > outside, ranked, np.inf), first)
        high = np.maximum.reduceat(np.where(above + weight / total > outside, ranked, -np.inf), first)
        return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)

    def _inputs(self, constants: Mapping[str, Any]) -> StepInputs:
        return step_inputs(self.counts, self.sequence, self.setting, constants, self.trainable_share, self.adapters)


def design(runs: Sequence[PublishedRun]) -> Design:
    """The arrays of `runs`."""
    cached: dict[int, ShapeCounts] = {}
    counts: list[ShapeCounts] = []
    settings: list[Setting] = []
    plans, owner, weight, scale, sequence = [], [], [], [], []
    adapters: list[AdapterNumbers] = []
    trainable: list[float] = []
    for index, run in enumerate(runs):
        one = cached.setdefault(hash(run.shape), ShapeCounts.of(run.shape))
        card, precision = accelerator_of(run.accelerator), run.variants[0].plan.precision
        stacks = {variant.traits: setting_of(card, precision, variant.traits, run.links) for variant in run.variants}
        beside = run.adapters.numbers(run.shape) if run.adapters else AdapterNumbers()
        share = trained_parameters(run.shape, run.adapters) / run.shape.parameters()
        for variant in run.variants:
            adapters.append(beside)
            trainable.append(share)
            counts.append(one)
            settings.append(stacks[variant.traits])
            plans.append(variant.plan)
            owner.append(index)
            weight.append(variant.weight)
            scale.append(run.global_batch / variant.plan.global_batch)
            sequence.append(float(run.sequence))
    return Design(
        stack_counts(counts),
        np.array(sequence),
        stack_plans(plans),
        stack_settings(settings),
        _stack_adapters(adapters),
        np.array(trainable),
        np.array(owner, dtype=np.int64),
        np.array(weight),
        np.array(scale),
        len(runs),
    )


def _stack_adapters(several: Sequence[AdapterNumbers]) -> AdapterNumbers:
    return AdapterNumbers(
        **{
            field.name: np.array([float(getattr(one, field.name)) for one in several])
            for field in fields(AdapterNumbers)
        }
    )
