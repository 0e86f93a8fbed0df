"""What fast recovery adds to a forecast: agreeing before and behind each step, and what one lost worker costs.

Its inputs are a rehearsal's (`real.fast_rehearsal`), made on another model and, but for their number, other workers.
Exact recovery is `interruptions`' and `failures`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datahall.base.formula import formula
from datahall.base.label import weakest
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.compute.plan import ComputePlan
from datahall.virtual.calibration import Calibration

_FLAT_PASSES = 6.0  # gradients are copied into one buffer, divided there, and copied back: each reads and writes
_NOTE = "What a lost worker costs is forecast for one that dies at any moment of a step."
OF_A_LOSS = ("longest_step", "dropped_per_loss")  # metrics that say something only where a worker was lost


@dataclass(frozen=True, slots=True)
class Agreement:
    """What agreeing takes with so many workers, seconds.

    `quorum_s` from asking who takes part to the answer, `commit_s` whether a step counts, `noticed_s` from a worker's
    death until the others go on without it, `start_s` from the launch of a worker until it is ready.
    """

    quorum_s: float
    commit_s: float
    noticed_s: float
    start_s: float


@formula(
    equation="a = max(0, q - c) + k",
    source="datahall; torchft asks for the quorum beside the arithmetic and for the commit behind the exchange",
    holds="the quorum is asked for as the step begins; nobody is lost",
)
def agreeing_s(computed_s: Any, quorum_s: Any, commit_s: Any) -> Any:
    """Seconds of a step that agreeing takes where reading and arithmetic take `computed_s`."""
    return np.maximum(0.0, quorum_s - computed_s) + commit_s


@formula(
    equation="t = T + max(T, n - (1 - u) T)",
    source="datahall; the step in which a peer dies is done again, beside which its death has to be noticed",
    holds="a peer dies at share u of a step of T, which the others see at the exchange; n later they are without it",
)
def longest_step_s(step_s: Any, noticed_s: Any, moment: Any) -> Any:
    """Seconds of the step of a survivor during which another worker dies."""
    return step_s + np.maximum(step_s, noticed_s - (1.0 - moment) * step_s)


@formula(
    equation="d = B/n (1 + max(0, s - t) / T)",
    source="datahall; while a new worker starts the others go on without its share, and it learns nothing as it joins",
    holds="one worker of n is replaced after a start of s; survivors stood still for t of it, then step in T each",
)
def dropped_samples(batch: Any, workers: Any, start_s: Any, stood_s: Any, step_s: Any) -> Any:
    """Samples that nobody learns from, of one lost worker."""
    return batch / workers * (1.0 + np.maximum(0.0, start_s - stood_s) / step_s)


def recovering_fast(
    expected: Result, compute: ComputePlan, found: Agreement, placed: Calibration, memory_bytes_per_s: float
) -> Result:
    """The forecast of a run with fast recovery, from that of the same run without (and without checkpoints).

    `placed` gives intervals; gradients travel in one piece that is filled and emptied at `memory_bytes_per_s`.
    """
    old, steps = expected.metrics, max(1, expected.counts["steps"])
    copies = _FLAT_PASSES * expected.counts["collective_bytes"] / steps / memory_bytes_per_s
    agreeing = float(agreeing_s(old["input"].value + old["compute"].value, found.quorum_s, found.commit_s))
    step_s = old["step_time"].value + copies + agreeing
    total_s = found.start_s + steps * step_s
    longer, later = step_s / old["step_time"].value, total_s / old["total_time"].value
    changed = {
        "transfer": (old["transfer"].value + copies) / max(old["transfer"].value, 1e-12),
        "step_time": longer,
        "startup": found.start_s / old["startup"].value,
        "total_time": later,
        "tokens_per_s": 1.0 / longer,
        "mfu": 1.0 / longer,
        "goodput": steps * step_s / total_s / old["goodput"].value,
        "energy": later,
        "cost": later,
    }
    metrics = {name: _times(one, changed.get(name, 1.0)) for name, one in old.items()}
    low, high = placed.spread("agreeing")
    metrics["agreeing"] = Metric("agreeing", "seconds", agreeing, agreeing * low, agreeing * high, placed.label)
    metrics |= _of_a_loss(compute, found, metrics, placed)
    return replace(expected, metrics=metrics, notes=(*expected.notes, _NOTE))


def _of_a_loss(
    compute: ComputePlan, found: Agreement, metrics: Mapping[str, Metric], placed: Calibration
) -> dict[str, Metric]:
    """What one lost worker costs the others, whenever in a step it dies; ends of intervals by those of its inputs."""
    step, exchanged = metrics["step_time"], metrics["transfer"].value + metrics["waiting"].value
    together = (step.value - exchanged * (compute.data == 2)) / step.value  # of a step, where one alone is left
    less, more = placed.spread("startup")
    longest = [
        float(longest_step_s(seconds, found.noticed_s * factor, moment))
        for seconds, factor, moment in ((step.value, 1.0, 0.5), (step.low, less, 0.0), (step.high, more, 1.0))
    ]
    dropped = [
        float(dropped_samples(compute.global_batch, compute.data, found.start_s * factor, stood, seconds * together))
        for stood, factor, seconds in zip(longest, (1.0, less, more), (step.value, step.high, step.low), strict=True)
    ]
    label = weakest([placed.label, step.label])
    return {
        name: Metric(name, unit, values[0], min(values), max(values), label)
        for name, unit, values in zip(OF_A_LOSS, ("seconds", "count"), (longest, dropped), strict=True)
    }


def _times(metric: Metric, factor: float) -> Metric:
    """The metric times `factor`, its interval as wide as it was beside it; a share stays below one."""
    most = 1.0 if metric.unit == "share" else float("inf")
    value, low, high = (min(most, number * factor) for number in (metric.value, metric.low, metric.high))
    return replace(metric, value=value, low=low, high=high)
