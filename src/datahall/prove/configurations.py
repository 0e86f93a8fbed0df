"""Which configurations a proof calibrates on and which it holds out, fixed by a seed before anything is measured.

Held-out widths, depths, batches and sequence lengths do not occur among the calibration's, so that a good score cannot
come from having seen the configuration.  Only values here; the loop runs them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from datahall.case.question import Case
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan

HEAD_DIM = 32
_WAYS = ((1, 1), (2, 1), (1, 2))  # workers, and threads of each


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that one side of the split draws from."""

    hidden: tuple[int, ...]
    layers: tuple[int, ...]
    sequence: tuple[int, ...]
    sequences_per_worker: tuple[int, ...]


SEEN = Grid(hidden=(128, 256, 448), layers=(2, 5), sequence=(64, 128, 256), sequences_per_worker=(2, 5, 8))
HELD_OUT = Grid(hidden=(160, 192, 320, 384), layers=(3, 4, 6), sequence=(96, 160, 192), sequences_per_worker=(3, 4, 6))


@dataclass(frozen=True, slots=True)
class Configuration:
    """One variation of a case with the plan that it runs by."""

    name: str
    case: Case
    plan: Plan


def configurations(case: Case, grid: Grid, count: int, seed: int, precisions: tuple[str, ...]) -> list[Configuration]:
    """`count` different configurations from `grid`: ways to use the cores in turn, and precisions in turn.

    Both change with every configuration, so that a machine that slows down looks like none of them.
    """
    chance = random.Random(f"{seed}:{grid.hidden}")
    ways = _WAYS if case.site.devices > 1 else _WAYS[:1]
    made: dict[str, Configuration] = {}
    while len(made) < count:
        workers, threads = ways[len(made) % len(ways)]
        precision = precisions[len(made) % len(precisions)]
        one = _draw(case, grid, chance, ComputePlan(data=workers, threads=threads, precision=precision))
        made.setdefault(one.name, one)
    return list(made.values())


def _draw(case: Case, grid: Grid, chance: random.Random, way: ComputePlan) -> Configuration:
    workers = way.data
    hidden, layers = chance.choice(grid.hidden), chance.choice(grid.layers)
    sequence, batch = chance.choice(grid.sequence), chance.choice(grid.sequences_per_worker)
    accumulation = chance.choice((1, 1, 2)) if batch % 2 == 0 else 1
    name = f"h{hidden}-l{layers}-s{sequence}-b{batch}x{accumulation}-{way.precision}-w{workers}t{way.threads}"
    model = replace(
        case.model,
        name=name,
        hidden=hidden,
        layers=layers,
        heads=hidden // HEAD_DIM,
        kv_heads=_key_value_heads(hidden // HEAD_DIM),
        head_dim=HEAD_DIM,
        ffn=_rounded(hidden * 8 / 3),
    )
    application = replace(
        case.application, sequence=sequence, global_batch=workers * batch, tokens=float(workers * batch * sequence)
    )
    varied = replace(case, name=name, model=model, application=application)
    compute = replace(way, micro_batch=batch // accumulation, accumulation=accumulation)
    return Configuration(name, varied, Plan(compute, StoragePlan(), NetworkPlan(), varied.hash()))


def _key_value_heads(heads: int) -> int:
    """Grouped-query attention with two query heads per key-value head where that divides."""
    return heads // 2 if heads % 2 == 0 else heads


def _rounded(width: float) -> int:
    return 32 * round(width / 32)
