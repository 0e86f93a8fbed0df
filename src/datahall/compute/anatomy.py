"""What a model is made of that datahall has no formulas for: the shapes of its parameters, what its cuts hand over.

Plain values, read off the built model before a run (`real.rehearsal`); bytes handed over follow from them by counting.
No seconds here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from datahall.compute.handed import exchange_handed, held_parts, merged, within_copy
from datahall.compute.handed_tensor import Handed, TensorCuts, together
from datahall.compute.inventory import Inventory, Shape, beside
from datahall.compute.plan import ComputePlan


@dataclass(frozen=True, slots=True)
class Frozen:
    """What of a workload gets no gradient, on one tensor rank: by block, and outside of them at either end."""

    inventory: Inventory
    first_outside: tuple[Shape, ...] = ()
    last_outside: tuple[Shape, ...] = ()


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One workload: what it trains by block, elements that a sample hands from stage to stage, the cuts of its parts.

    `on_rank` are the parameters of one tensor rank, where there are several; `first_outside` and `last_outside` those
    of a rank outside the blocks that the first and the last stage hold, `common` those that both do; `parts` are what
    is cut in each stage; `frozen` is held and gathered with the rest, and `taught_from` is the first stage that gives
    something with a gradient; `buffers` are the bytes of the persistent ones, by type.  `boundary` is 0 where the model
    cannot be cut into stages.  FLOPs are of one micro-batch of the plan that it was read for, on the worker that speaks
    for the run.  `state_bytes` are what the optimiser keeps for each parameter.
    """

    inventory: Inventory
    boundary: int = 0
    on_rank: Inventory | None = None
    first_outside: tuple[Shape, ...] = ()
    last_outside: tuple[Shape, ...] = ()
    common: tuple[Shape, ...] = ()
    parts: tuple[TensorCuts, ...] = ()
    frozen: Frozen = field(default_factory=lambda: Frozen(Inventory((), ())))
    taught_from: int = 0
    buffers: tuple[int, ...] = ()
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
        within = merged(
            within_copy(plan.micro_batch * self.boundary, cuts, plan, stage, self.common, self.taught_from),
            self._buffers_handed(plan),
        )
        staged = plan.pipeline > 1
        outside = (self.first_outside, self.last_outside) if staged else None
        trained = held_parts(self.on_rank or self.inventory, plan, stage, outside)
        if not self.frozen.inventory.parameters:
            return merged(within, exchange_handed(trained, plan))
        outside = (self.frozen.first_outside, self.frozen.last_outside) if staged else None
        rest = held_parts(self.frozen.inventory, plan, stage, outside)
        held = [beside(*both) for both in zip(trained, rest, strict=True)]
        return merged(within, exchange_handed(held, plan, trained))

    @property
    def cuts(self) -> TensorCuts:
        """Those of the whole model."""
        return together(self.parts)

    def on_tensor_rank(self, ranks: int) -> int:
        """Parameters of one tensor rank."""
        cut = self.cuts.cut_parameters
        return self.parameters - cut + cut // ranks

    def _buffers_handed(self, plan: ComputePlan) -> dict[str, Handed]:
        """Plain data parallelism makes buffers equal once a step."""
        return {"broadcast": (len(self.buffers), sum(self.buffers))} if plan.replicated and self.buffers else {}

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
        "buffers": tuple(told["buffers"]),
        "parts": tuple(_cuts(part) for part in told["parts"]),
        "frozen": Frozen(
            _inventory(told["frozen"]["inventory"]),
            *(_shapes(told["frozen"][end]) for end in ("first_outside", "last_outside")),
        ),
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
