"""What a model is made of that datahall has no formulas for: the shapes of its parameters, what its cuts hand over.

Plain values, read off the built model before a run (`real.rehearsal`); bytes handed over follow from them by counting.
No seconds here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datahall.compute.handed import (
    Handed,
    Inventory,
    Shape,
    exchange_handed,
    held_parts,
    merged,
    sends_handed,
    word_bytes,
)
from datahall.compute.plan import ComputePlan


@dataclass(frozen=True, slots=True)
class TensorCuts:
    """What tensor ranks exchange for one sample of a micro-batch: elements of each call, whole tensors.

    `forward` are outputs of row-cut products, `tables` outputs of cut tables, `backward` gradients of inputs that every
    rank needs whole, `gathered` outputs that are put together again.  `cut_parameters` are divided among the ranks, the
    others are on each.
    """

    forward: tuple[int, ...] = ()
    tables: tuple[int, ...] = ()
    backward: tuple[int, ...] = ()
    gathered: tuple[int, ...] = ()
    cut_parameters: int = 0
    modules: int = 0  # that are cut


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One workload: parameters by block, elements that a sample hands from stage to stage, and its tensor cuts.

    `on_rank` are the parameters of one tensor rank, where there are several; `first_outside` and `last_outside` those
    outside the blocks that the first and the last stage hold.  `boundary` is 0 where the model cannot be cut into
    stages.  FLOPs are of one micro-batch of the plan that it was read for, on the worker that speaks for the run.
    `state_bytes` are what the optimiser keeps for each parameter.
    """

    inventory: Inventory
    boundary: int = 0
    on_rank: Inventory | None = None
    first_outside: tuple[Shape, ...] = ()
    last_outside: tuple[Shape, ...] = ()
    cuts: TensorCuts = TensorCuts()
    matmul_flops: int = 0
    attention_flops: int = 0
    state_bytes: float = 8.0

    @property
    def parameters(self) -> int:
        """All trained parameters."""
        return self.inventory.parameters

    def handed_over(self, plan: ComputePlan, stage: int) -> dict[str, Handed]:
        """What one worker of `stage` hands over in a step, by kind of collective; {} for one worker."""
        found: dict[str, Handed] = {}
        if plan.pipeline > 1:
            found = sends_handed(plan.micro_batch * self.boundary, plan, stage)
        elif plan.tensor > 1:
            found = self._tensor_handed(plan)
        outside = (self.first_outside, self.last_outside) if plan.pipeline > 1 else None
        parts = held_parts(self.on_rank or self.inventory, plan, stage, outside)
        return merged(found, exchange_handed(parts, plan))

    def on_tensor_rank(self, ranks: int) -> int:
        """Parameters of one tensor rank."""
        return self.parameters - self.cuts.cut_parameters + self.cuts.cut_parameters // ranks

    def _tensor_handed(self, plan: ComputePlan) -> dict[str, Handed]:
        cuts, times = self.cuts, plan.accumulation * plan.micro_batch
        calls = plan.accumulation * (len(cuts.forward) + len(cuts.tables) + len(cuts.backward))
        wide = word_bytes(plan) if plan.zero_stage >= 2 and plan.data > 1 else 4
        summed = times * (word_bytes(plan) * sum(cuts.forward) + wide * (sum(cuts.tables) + sum(cuts.backward)))
        gathered = times * word_bytes(plan) * sum(cuts.gathered) // plan.tensor
        found = {"all_reduce": (calls, summed)}
        if cuts.gathered:
            found["all_gather"] = (plan.accumulation * len(cuts.gathered), gathered)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def anatomy_from_json(told: Mapping[str, Any]) -> Anatomy:
    """What `Anatomy.to_json` wrote."""
    cuts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told["cuts"].items()
    }
    read: dict[str, Any] = {
        "inventory": _inventory(told["inventory"]),
        "on_rank": told["on_rank"] and _inventory(told["on_rank"]),
        "first_outside": _shapes(told["first_outside"]),
        "last_outside": _shapes(told["last_outside"]),
        "cuts": TensorCuts(**cuts),
    }
    return Anatomy(**{**told, **read})


def _inventory(told: Mapping[str, Any]) -> Inventory:
    return Inventory(tuple(_shapes(block) for block in told["blocks"]), _shapes(told["root"]), told["before"])


def _shapes(told: Sequence[Sequence[int]]) -> tuple[Shape, ...]:
    return tuple(tuple(shape) for shape in told)
