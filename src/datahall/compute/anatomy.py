"""What a model is made of that datahall has no formulas for: the shapes of its parameters, what its cuts hand over.

Plain values, read off the built model before a run (`real.rehearsal`); bytes handed over follow from them by counting.
No seconds here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from datahall.compute.handed import (
    GRADIENT_BYTES,
    Handed,
    Inventory,
    pipeline_handed,
    sharded_handed,
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

    `first_outside` and `last_outside` are parameters outside the blocks that the first and the last stage hold;
    `boundary` is 0 where the model cannot be cut into stages.  FLOPs are of one micro-batch of the plan that it was
    read for, on the worker that speaks for the run.  `state_bytes` are what the optimiser keeps for each parameter.
    """

    inventory: Inventory
    boundary: int = 0
    first_outside: int = 0
    last_outside: int = 0
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
        if plan.pipeline > 1:
            outside = (self.first_outside, self.last_outside)
            return pipeline_handed(self.inventory, plan.micro_batch * self.boundary, plan, stage, outside)
        if plan.tensor > 1:
            return self._tensor_handed(plan)
        if plan.data == 1:
            return {}
        if plan.zero_stage:
            return sharded_handed(self.inventory, plan)
        return {"all_reduce": (1, GRADIENT_BYTES * self.parameters)}

    def on_tensor_rank(self, ranks: int) -> int:
        """Parameters of one tensor rank."""
        return self.parameters - self.cuts.cut_parameters + self.cuts.cut_parameters // ranks

    def _tensor_handed(self, plan: ComputePlan) -> dict[str, Handed]:
        cuts, times = self.cuts, plan.accumulation * plan.micro_batch
        calls = plan.accumulation * (len(cuts.forward) + len(cuts.tables) + len(cuts.backward))
        summed = times * (word_bytes(plan) * sum(cuts.forward) + 4 * (sum(cuts.tables) + sum(cuts.backward)))
        if plan.data > 1:
            calls, summed = calls + 1, summed + GRADIENT_BYTES * self.on_tensor_rank(plan.tensor)
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
    inventory = told["inventory"]
    blocks = tuple(tuple(tuple(shape) for shape in block) for block in inventory["blocks"])
    root = tuple(tuple(shape) for shape in inventory["root"])
    cuts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told["cuts"].items()
    }
    return Anatomy(**{**told, "inventory": Inventory(blocks, root, inventory["before"]), "cuts": TensorCuts(**cuts)})
