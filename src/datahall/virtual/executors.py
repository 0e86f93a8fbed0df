"""What it costs to put workers somewhere else than into subprocesses here: seconds on top of a run's start-up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datahall.base.formula import formula
from datahall.base.result import Result

CLUSTER_S = 6.0  # a cluster of one's own on loopback, dashboard off; joining one that is there: part of the gang's
GANG_S = 0.5  # a placement group, resources being free
ACTOR_S = 1.0  # a worker's actor on a processor of its own, Python and Ray's libraries read from cache
RAY_FACTOR = 2.0  # factor to either end: these are figures of other machines than the user's


@formula(
    equation="t = c + g + w (a / cores)",
    source="datahall; Ray 2.60 on a machine of two cores, docs/ray.md",
    holds="workers of a node start side by side on its cores; no image to fetch, no node to boot",
)
def ray_startup_s(workers: Any, cores: Any, own_cluster: Any) -> Any:
    """Seconds until Ray has started `workers` processes; `own_cluster` is 1 where the cluster is started too."""
    return own_cluster * CLUSTER_S + GANG_S + workers * ACTOR_S / cores


def started_on_ray(expected: Result, workers: int, cores: int, *, own_cluster: bool) -> Result:
    """The forecast of a run with Ray's start-up in it; steps take what they take without."""
    more = float(ray_startup_s(workers, cores, float(own_cluster)))
    metrics = dict(expected.metrics)
    for name in ("startup", "total_time"):
        old = metrics[name]
        low, high = old.low + more / RAY_FACTOR, old.high + more * RAY_FACTOR
        metrics[name] = replace(old, value=old.value + more, low=low, high=high)
    return replace(
        expected,
        metrics=metrics,
        notes=(*expected.notes, f"{more:.1f} s of the start-up are Ray's, not measured here."),
    )
