"""Every way to cut a case's training step over a number of devices, as arrays.

A split is left out only where it cannot exist (a degree that divides nothing); whether it fits or pays comes later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.case.question import Case
from datahall.compute.layout import splits_evenly
from datahall.compute.numbers import BUBBLE_SHARES, RECOMPUTE_CODES, PlanNumbers
from datahall.compute.plan import ComputePlan

Numbers = NDArray[np.float64]
_RECOMPUTE_NAMES = {code: name for name, code in RECOMPUTE_CODES.items()}
_COLUMNS = tuple(field.name for field in fields(PlanNumbers) if field.name not in ("linear_bits", "keeps_all"))
_GROUPS = (4, 8, 16, 32, 64, 128)  # ranks that may share one copy, beside all of them
_MOST_VIRTUAL = 12
_MOST_CONTEXT = 64
_LARGEST_MICRO_BATCH = 64


@dataclass(frozen=True, slots=True)
class Space:
    """Plans as columns of equal length, in one precision; `impossible` counts degrees left out, by the reason."""

    numbers: PlanNumbers
    precision: str
    impossible: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.numbers.data)

    def plan(self, index: int) -> ComputePlan:
        """The plan at `index`."""
        value = {name: int(getattr(self.numbers, name)[index]) for name in _COLUMNS if name != "bubble_share"}
        bubble = float(self.numbers.bubble_share[index])
        schedule = "zero-bubble" if bubble < 1.0 else "interleaved" if value["virtual_stages"] > 1 else "1f1b"
        words: dict[str, Any] = {
            "recompute": _RECOMPUTE_NAMES[value["recompute"]],
            "sequence_parallel": bool(value["sequence_parallel"]),
            "precision": self.precision,
            "schedule": schedule,
        }
        return ComputePlan(**{**value, **words})

    def in_precision(self, precision: str) -> Space:
        """The same plans in another precision."""
        bits = PlanNumbers.of(ComputePlan(precision=precision)).linear_bits
        return replace(self, numbers=replace(self.numbers, linear_bits=bits), precision=precision)

    def part(self, chosen: slice | NDArray[Any]) -> PlanNumbers:
        """Some of the plans, as numbers."""
        columns = {name: getattr(self.numbers, name)[chosen] for name in _COLUMNS}
        return PlanNumbers(**columns, linear_bits=self.numbers.linear_bits)


def space(case: Case, precision: str, devices: Sequence[int], *, wide: bool = False) -> Space:
    """All plans of `case` on each number of `devices`.

    `wide` adds what seldom pays or few engines have (sequence parallelism off, every micro-batch and sharding group,
    zero-bubble schedules), for benchmarks.
    """
    impossible: Counter[str] = Counter()
    blocks = [
        block
        for count in devices
        for degrees in _degrees(case, count, impossible)
        if len(block := _block(case, *degrees, wide=wide))
    ]
    table = np.concatenate(blocks) if blocks else np.empty((0, len(_COLUMNS)))
    columns = dict(zip(_COLUMNS, np.ascontiguousarray(table.T), strict=True))
    bits = PlanNumbers.of(ComputePlan(precision=precision)).linear_bits
    return Space(PlanNumbers(**columns, linear_bits=bits), precision, impossible)


def can_be_cut(case: Case, devices: int) -> bool:
    """Whether any plan of `case` uses all of so many devices."""
    return next(_degrees(case, devices, Counter()), None) is not None


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [k for k in range(1, int(number**0.5) + 1) if number % k == 0]
    return sorted({*small, *(number // k for k in small)})


def _degrees(case: Case, count: int, impossible: Counter[str]) -> Iterator[tuple[int, int, int, int]]:
    """Data, tensor, pipeline and context degrees whose product is `count` and that the model allows."""
    shape, application = case.model, case.application
    for tensor in divisors(count):
        if not splits_evenly(shape, tensor):
            impossible["tensor parallelism does not divide the attention heads or the width of the MLP"] += 1
            continue
        for pipeline in divisors(count // tensor):
            if not _even(shape.layers, pipeline):
                impossible["there are more pipeline stages than layers to fill them"] += 1
                continue
            for context in divisors(count // tensor // pipeline):
                data = count // tensor // pipeline // context
                if context > _MOST_CONTEXT or (context > 1 and application.sequence % (2 * context)):
                    impossible["context parallelism does not divide the sequence"] += 1
                elif application.global_batch % data:
                    impossible["the data-parallel ranks do not divide the global batch"] += 1
                else:
                    yield data, tensor, pipeline, context


def _block(case: Case, data: int, tensor: int, pipeline: int, context: int, *, wide: bool) -> Numbers:
    """The plans of one choice of degrees, one a row in the order of `_COLUMNS`."""
    local = case.application.global_batch // data
    sharding = np.array(_sharding(data * context, context, wide), dtype=float)
    choices = {
        "micro_batch": _micro_batches(local, wide),
        "virtual_stages": _virtual(case.model.layers, pipeline, case.model.layers if wide else _MOST_VIRTUAL),
        "sharding": np.arange(len(sharding)),
        "expert": [e for e in divisors(case.model.experts or 1) if (data * context) % e == 0],
        "recompute": [0, 1, 2],
        "sequence_parallel": [1, 0] if wide and tensor > 1 else [1],
        "bubble_share": [1.0, BUBBLE_SHARES["zero-bubble"]] if wide and pipeline > 1 else [1.0],
    }
    axes = np.meshgrid(*choices.values(), indexing="ij")
    values: dict[str, Any] = {name: axis.ravel() for name, axis in zip(choices, axes, strict=True)}
    chosen = sharding[values.pop("sharding")]
    values |= {"zero_stage": chosen[:, 0], "shard_group": chosen[:, 1], "accumulation": local // values["micro_batch"]}
    degrees = {"data": data, "tensor": tensor, "pipeline": pipeline, "context": context}
    values |= {name: np.full(len(chosen), degree) for name, degree in degrees.items()}
    kept = _reasonable(values)
    return np.stack([values[name][kept] for name in _COLUMNS], axis=1)


def _reasonable(values: Mapping[str, Any]) -> Any:
    """A mask over plans: those that can exist and that no other beats whatever the hardware."""
    steps, stages, bubble = values["accumulation"], values["pipeline"], values["bubble_share"]
    # Interleaving wants rounds of as many micro-batches as there are stages.  Zero-bubble wants equal rounds, and would
    # recompute whole blocks twice, once for each half of a backward pass.
    mask = (values["virtual_stages"] == 1) | (steps % stages == 0)
    mask &= (bubble == 1.0) | ((values["recompute"] < 2) & (steps % np.maximum(1, steps // stages) == 0))
    mask &= (values["zero_stage"] != 2) | (steps == 1)  # over micro-steps it scatters at each: ZeRO-1 or 3 does better
    return mask & _nest(values["expert"], values["context"]) & _nest(values["expert"], values["shard_group"])


def _micro_batches(local: int, wide: bool) -> list[int]:
    usual = [m for m in divisors(local) if m <= _LARGEST_MICRO_BATCH and (m & (m - 1) == 0 or m <= 3)]
    return divisors(local) if wide else usual


def _nest(expert: Numbers, others: Any) -> Any:
    """Whether groups of expert ranks lie inside groups of `others` (0: of all), or the other way round."""
    return (others == 0) | (np.maximum(expert, others) % np.maximum(1, np.minimum(expert, others)) == 0)


def _virtual(layers: int, pipeline: int, most: int) -> list[int]:
    """Chunks of layers a stage: one, or as many as leave every chunk a layer."""
    return [v for v in range(1, most + 1) if v == 1 or (pipeline > 1 and _even(layers, pipeline * v))]


def _sharding(ranks: int, context: int, wide: bool) -> list[tuple[int, int]]:
    """ZeRO stages with the ranks that share one copy (0: all): whole groups of `context` ranks."""
    if ranks == 1:
        return [(0, 0)]
    groups = divisors(ranks)[1:-1] if wide else [g for g in _GROUPS if g < ranks and ranks % g == 0]
    partial = [(stage, group) for stage in (1, 3) for group in groups if group % context == 0]
    return [(0, 0), (1, 0), (2, 0), (3, 0), *partial]


def _even(layers: int, stages: int) -> bool:
    """Whether every one of `stages` gets a layer when each takes its share, rounded up."""
    return -(-layers // stages) * (stages - 1) < layers
