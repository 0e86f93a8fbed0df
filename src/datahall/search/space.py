"""Every way to cut a case's training step over a number of devices, as grids of arrays.

A split is left out only where it cannot exist, where the site's stack does not have it, or where another beats it
whatever the hardware; whether it fits or pays comes later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.case.question import Case
from datahall.compute.layout import splits_evenly
from datahall.compute.numbers import BUBBLE_SHARES, RECOMPUTE_CODES, PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.virtual.traits import traits_of

_RECOMPUTE_NAMES = {code: name for name, code in RECOMPUTE_CODES.items()}
_COLUMNS = tuple(field.name for field in fields(PlanNumbers) if field.name not in ("linear_bits", "keeps_all"))
# What steps follow from last: the axes before it only add up what they gave, so that most of a price has few elements.
_AXES = ("bubble_share", "sharding", "ranks", "expert", "sequence_parallel", "recompute", "micro_batch", "chunks")
_CUT_FIRST = ("ranks", "micro_batch", "sharding", "expert", "chunks")
_Axes = Mapping[str, Sequence[Any]]
_MOST_CELLS = 1 << 17  # of one grid, so that its arrays stay in a cache


@dataclass(frozen=True, slots=True)
class Grid:
    """Plans of one number of data ranks and stages: every combination of the rest, of which some `exists`.

    The arrays of `numbers` broadcast against one another to the shape of `exists`.  Plans of one `family` are cut alike
    (degrees and ZeRO stage).
    """

    numbers: PlanNumbers
    exists: NDArray[np.bool_]
    family: NDArray[np.int64]


@dataclass(frozen=True)
class Space:
    """Grids of plans in one precision; `impossible` counts degrees left out, by the reason.

    A plan is named by its cell: the cells of all grids, counted through in order.
    """

    grids: tuple[Grid, ...]
    precision: str
    impossible: Mapping[str, int]

    def __len__(self) -> int:
        return self._plans

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first cell of each grid, and behind the last one's end."""
        return np.cumsum([0, *(grid.exists.size for grid in self.grids)])

    @cached_property
    def _plans(self) -> int:
        return sum(int(np.count_nonzero(grid.exists)) for grid in self.grids)

    def cells(self) -> NDArray[np.int64]:
        """The cells of all plans."""
        found = [start + np.flatnonzero(grid.exists) for start, grid in zip(self.starts, self.grids, strict=False)]
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    def plan(self, cell: int) -> ComputePlan:
        """The plan of a cell."""
        numbers = self.part(np.array([cell]))
        value = {name: int(getattr(numbers, name)[0]) for name in _COLUMNS if name != "bubble_share"}
        bubble = float(numbers.bubble_share[0])
        schedule = "zero-bubble" if bubble < 1.0 else "interleaved" if value["virtual_stages"] > 1 else "1f1b"
        words: dict[str, Any] = {
            "recompute": _RECOMPUTE_NAMES[value["recompute"]],
            "sequence_parallel": bool(value["sequence_parallel"]),
            "precision": self.precision,
            "schedule": schedule,
        }
        return ComputePlan(**{**value, **words})

    def part(self, cells: NDArray[np.int64]) -> PlanNumbers:
        """The plans of some cells as columns of equal length, in the order of the cells."""
        columns = np.empty((len(_COLUMNS), len(cells)))
        owners = np.searchsorted(self.starts, cells, side="right") - 1
        by_owner = np.argsort(owners, kind="stable")
        ends = np.searchsorted(owners[by_owner], np.arange(len(self.grids) + 1))
        for owner in np.unique(owners):
            grid, mine = self.grids[owner], by_owner[ends[owner] : ends[owner + 1]]
            places = np.unravel_index(cells[mine] - self.starts[owner], grid.exists.shape)
            for column, name in zip(columns, _COLUMNS, strict=True):
                column[mine] = np.broadcast_to(getattr(grid.numbers, name), grid.exists.shape)[places]
        return PlanNumbers(**dict(zip(_COLUMNS, columns, strict=True)), linear_bits=_bits(self.precision))

    def in_precision(self, precision: str) -> Space:
        """The same plans in another precision."""
        bits = _bits(precision)
        grids = tuple(replace(grid, numbers=replace(grid.numbers, linear_bits=bits)) for grid in self.grids)
        return Space(grids, precision, self.impossible)


def space(case: Case, precision: str, devices: Sequence[int]) -> Space:
    """All plans of `case` on each number of `devices`."""
    impossible: Counter[str] = Counter()
    cuts: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for count in devices:
        for data, tensor, pipeline, context in _degrees(case, count, impossible):
            cuts.setdefault((data, pipeline), []).append((tensor, context))
    grids = [
        grid
        for number, ((data, pipeline), ranks) in enumerate(cuts.items())
        for choices in _choices(case, data, pipeline, ranks)
        for axes in _cut(choices)
        if (grid := _grid(case, number, data, pipeline, axes, _bits(precision))).exists.any()
    ]
    return Space(tuple(grids), precision, impossible)


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
            if pipeline > shape.layers:
                impossible["there are more pipeline stages than layers to fill them"] += 1
                continue
            for context in divisors(count // tensor // pipeline):
                data = count // tensor // pipeline // context
                if context > 1 and application.sequence % (2 * context):
                    impossible["context parallelism does not divide the sequence"] += 1
                elif application.global_batch % data:
                    impossible["the data-parallel ranks do not divide the global batch"] += 1
                else:
                    yield data, tensor, pipeline, context


def _choices(case: Case, data: int, pipeline: int, ranks: Sequence[tuple[int, int]]) -> Iterator[_Axes]:
    """What can be chosen beside data ranks and stages: `ranks` are tensor and context degrees together."""
    local, most = case.application.global_batch // data, case.model.layers // pipeline
    halves = pipeline > 1 and _has_zero_bubble(case)
    # Pipelines scatter gradients once a step, so that stage 2 holds what stage 1 does, and gathers more often.
    stages = (1, 2, 3) if pipeline == 1 else (1, 3)
    axes = {
        "bubble_share": [1.0, BUBBLE_SHARES["zero-bubble"]] if halves else [1.0],
        "sharding": [(0, 0), *((stage, share) for stage in stages for share in (0, *divisors(data)[:-1]))],
        "ranks": ranks,
        "expert": divisors(case.model.experts or 1),
        "sequence_parallel": [1, 0] if any(tensor > 1 for tensor, _ in ranks) else [1],
        "recompute": [0, 1, 2],
    }
    several = pipeline > 1 and most > 1
    rounds = [size for size in divisors(local) if several and local // size % pipeline == 0]
    rest = [size for size in divisors(local) if size not in rounds]
    if rounds:  # interleaving wants rounds of as many micro-batches as there are stages
        yield {**axes, "micro_batch": rounds, "chunks": range(1, most + 1)}
    if rest:
        yield {**axes, "micro_batch": rest, "chunks": [1]}


def _has_zero_bubble(case: Case) -> bool:
    site = case.site
    return traits_of(site.stack, site.accelerator.kind, architecture=site.accelerator.architecture).zero_bubble


def _cut(axes: _Axes) -> Iterator[_Axes]:
    """The same combinations in grids of few enough cells."""
    cells = np.prod([len(axis) for axis in axes.values()])
    name = next((name for name in _CUT_FIRST if len(axes[name]) > 1), "")
    if cells <= _MOST_CELLS or not name:
        yield axes
        return
    pieces = min(len(axes[name]), int(-(-cells // _MOST_CELLS)))
    length = -(-len(axes[name]) // pieces)
    for start in range(0, len(axes[name]), length):
        yield from _cut({**axes, name: axes[name][start : start + length]})


def _grid(case: Case, number: int, data: int, pipeline: int, axes: _Axes, linear_bits: float) -> Grid:
    """The grid of some axes; `number` tells the choice of data ranks and stages from others."""
    along = {name: _along(name, axes[name]) for name in _AXES if name not in ("sharding", "ranks")}
    stage, share = (_along("sharding", column) for column in zip(*axes["sharding"], strict=True))
    tensor, context = (_along("ranks", column) for column in zip(*axes["ranks"], strict=True))
    numbers = PlanNumbers(
        data=float(data),
        tensor=tensor,
        pipeline=float(pipeline),
        virtual_stages=along["chunks"],
        context=context,
        expert=along["expert"],
        zero_stage=stage,
        shard_group=share * context,
        micro_batch=along["micro_batch"],
        accumulation=case.application.global_batch // data / along["micro_batch"],
        recompute=along["recompute"],
        bubble_share=along["bubble_share"],
        sequence_parallel=along["sequence_parallel"],
        linear_bits=linear_bits,
    )
    exists = _exists(case, numbers)
    shape = np.broadcast_shapes(*(np.shape(getattr(numbers, name)) for name in _COLUMNS))
    family = np.int64(number)
    for degree, most in ((tensor, 1 << 12), (context, 1 << 20), (along["expert"], 1 << 12), (stage, 4)):
        family = family * most + degree.astype(np.int64)
    return Grid(numbers, np.broadcast_to(exists, shape), family)


def _exists(case: Case, plan: PlanNumbers) -> Any:
    """A mask over plans: those that can be, and that no other beats whatever the hardware (GPipe is not even tried)."""
    every = plan.data * plan.context
    # A group of one shares nothing, and ranks that share a copy are whole groups of context ranks.
    mask = (plan.shard_group != 1) & (every % plan.expert == 0)
    mask = mask & _nest(plan.expert, plan.context) & _nest(plan.expert, plan.shard_group)
    mask = mask & ((every > 1) | (plan.zero_stage == 0))
    # Tensor ranks share a sequence, or the tokens for the experts, where it has equal parts for them.
    even = case.application.sequence / plan.context % plan.tensor == 0
    shares = (plan.sequence_parallel == 1) | (plan.expert > 1)
    mask = mask & np.where(plan.tensor == 1, plan.sequence_parallel == 1, even | ~shares)
    # Halves of backward passes want equal rounds, and would recompute whole blocks twice, once for each half.
    halved = (plan.recompute < 2) & (plan.accumulation % np.maximum(1.0, plan.accumulation // plan.pipeline) == 0)
    return mask & ((plan.bubble_share == 1.0) | halved)


def _nest(expert: Any, others: Any) -> Any:
    """Whether groups of expert ranks lie inside groups of `others` (0: of all), or the other way round."""
    return (others == 0) | (np.maximum(expert, others) % np.maximum(1, np.minimum(expert, others)) == 0)


def _along(name: str, values: Sequence[Any]) -> NDArray[np.float64]:
    """Values along their axis of a grid."""
    return np.array(values, dtype=float).reshape([-1 if name == axis else 1 for axis in _AXES])


def _bits(precision: str) -> Any:
    return PlanNumbers.of(ComputePlan(precision=precision)).linear_bits
