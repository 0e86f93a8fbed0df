"""What a model is made of that datahall has no formulas for: the shapes of its parameters, what its cuts hand over.

Plain values, read off the built model before a run (`real.rehearsal`); bytes handed over follow from them by counting.
No seconds here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datahall.compute.handed import exchange_handed, held_parts, merged, within_copy
from datahall.compute.handed_tensor import Handed, TensorCuts, together
from datahall.compute.inventory import Inventory, Shape
from datahall.compute.plan import ComputePlan


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One workload: parameters by block, elements that a sample hands from stage to stage, and the cuts of its parts.

    `on_rank` are the parameters of one tensor rank, where there are several; `first_outside` and `last_outside` those
    of a rank outside the blocks that the first and the last stage hold, `common` those that both do; `parts` are what
    is cut in each stage.  `boundary` is 0 where the model cannot be cut into stages.  FLOPs are of one micro-batch of
    the plan that it was read for, on the worker that speaks for the run.  `state_bytes` are what the optimiser keeps
    for each parameter.
    """

    inventory: Inventory
    boundary: int = 0
    on_rank: Inventory | None = None
    first_outside: tuple[Shape, ...] = ()
    last_outside: tuple[Shape, ...] = ()
    common: tuple[Shape, ...] = ()
    parts: tuple[TensorCuts, ...] = ()
    matmul_flops: int = 0
    attention_flops: int = 0
    state_bytes: float = 8.0

    @property
    def parameters(self) -> int:
        """All trained parameters."""
        return self.inventory.parameters

    def handed_over(self, plan: ComputePlan, stage: int) -> dict[str, Handed]:
        """What one worker of `stage` hands over in a step, by kind of collective; {} for one worker."""
        cuts = together(self.parts[stage :: plan.pipeline])
        within = within_copy(plan.micro_batch * self.boundary, cuts, plan, stage, self.common)
        outside = (self.first_outside, self.last_outside) if plan.pipeline > 1 else None
        held = held_parts(self.on_rank or self.inventory, plan, stage, outside)
        return merged(within, exchange_handed(held, plan))

    @property
    def cuts(self) -> TensorCuts:
        """Those of the whole model."""
        return together(self.parts)

    def on_tensor_rank(self, ranks: int) -> int:
        """Parameters of one tensor rank."""
        cut = self.cuts.cut_parameters
        return self.parameters - cut + cut // ranks

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def anatomy_from_json(told: Mapping[str, Any]) -> Anatomy:
    """What `Anatomy.to_json` wrote."""
    read: dict[str, Any] = {
        "inventory": _inventory(told["inventory"]),
        "on_rank": told["on_rank"] and _inventory(told["on_rank"]),
        "first_outside": _shapes(told["first_outside"]),
        "last_outside": _shapes(told["last_outside"]),
        "common": _shapes(told["common"]),
        "parts": tuple(_cuts(part) for part in told["parts"]),
    }
    return Anatomy(**{**told, **read})


def _inventory(told: Mapping[str, Any]) -> Inventory:
    return Inventory(tuple(_shapes(block) for block in told["blocks"]), _shapes(told["root"]), told["before"])


def _cuts(told: Mapping[str, Any]) -> TensorCuts:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    whole = {name: _shapes(fields[name]) for name in ("shared", "routed", "copied")}
    return TensorCuts(**{**fields, **whole})


def _shapes(told: Sequence[Sequence[int]]) -> tuple[Shape, ...]:
    return tuple(tuple(shape) for shape in told)
