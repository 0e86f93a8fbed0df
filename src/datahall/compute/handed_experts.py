"""What expert ranks hand to one another: rows of tokens on the way to their experts and back.  No seconds here."""

from __future__ import annotations

from datahall.case.model import ModelShape
from datahall.compute.handed_tensor import Handed, word_bytes
from datahall.compute.plan import ComputePlan

COUNT_BYTES = 8  # of a number of rows, as ranks tell each other


def routed_handed(shape: ModelShape, sequence: int, plan: ComputePlan) -> dict[str, Handed]:
    """What an expert rank hands over in a step, the mean over the ranks that share the experts.

    In each mixture and micro-step a count for each expert, the rows there and back, and their gradients; with full
    recomputation the way forward twice.  A row that stays where it is is handed over too.
    """
    mixtures = shape.moe_layers * plan.accumulation
    again = 2 if plan.recompute == "full" else 1
    rows = plan.micro_batch * sequence * shape.experts_per_token
    size = again * COUNT_BYTES * shape.experts + 2 * (again + 1) * rows * shape.hidden * word_bytes(plan)
    return {"all_to_all": (mixtures * (3 * again + 2), mixtures * size)}


def routed_parameters(shape: ModelShape) -> int:
    """Parameters of all routed experts."""
    return shape.moe_layers * shape.experts * shape.mlp_parameters(shape.ffn)
