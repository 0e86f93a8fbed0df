"""What a world gives back after it has played a plan: metrics by component, exact counts, labels.

The same schema from the virtual and the real world, so that a comparison needs to know neither.

Metric names and units (per step means per optimiser step; means over the middle half of steady steps by their time, so
that components add up to the step's time and outliers do not count; the view of the worker that waits longest in the
run, so that a slow colleague shows as waiting):

    compute, transfer, waiting, input, optimiser    seconds per step
    other             seconds per step of none of these (writing the log, mainly)
    cpu_time          CPU seconds of that worker's process per step
    checkpoint        seconds that one checkpoint holds the loop
    checkpoint_slowing  seconds by which the steps beside one background checkpoint are longer in all
    startup           seconds from launch to the beginning of the first step
    step_time         seconds per step without checkpoints
    total_time        seconds from launch to the end
    peak_memory       bytes per process above the idle worker (after import and group start)
    host_memory       bytes in the fullest host's memory that all processes there hold, the idle worker included
    checkpoint_write  seconds until one checkpoint is committed
    energy, cost      joules and USD for the whole run
    tokens_per_s      tokens per second of steady steps
    mfu               model FLOPs per second over the dense peak of the plan's precision (share)
    goodput           share of total_time in which committed steps moved the training forward
    busiest_share     of the rows that expert ranks share out among them, those of the rank with the most (share)

Counts: samples, tokens, steps, matmul_flops, attention_flops (one worker's whole run), collective_bytes and
collective_calls (handed to collectives by one worker), checkpoint_bytes.  With expert ranks, one worker is the mean
of those that share the experts: what each gets is the router's choice, what all get is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from datahall.base.metric import Metric

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Result:
    """One play of one plan.  `world` is virtual or real; `notes` are sentences for people (refused, assumed)."""

    world: str
    metrics: Mapping[str, Metric]
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "world": self.world,
            "metrics": [metric.to_json() for metric in self.metrics.values()],
            "counts": dict(self.counts),
            "notes": list(self.notes),
        }


def result_from_json(data: Mapping[str, Any]) -> Result:
    """The result that `Result.to_json` wrote."""
    metrics = {entry["name"]: Metric.from_json(entry) for entry in data["metrics"]}
    return Result(data["world"], metrics, dict(data["counts"]), tuple(data["notes"]))
