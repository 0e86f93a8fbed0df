"""What expert ranks hand to one another: rows of tokens on the way to their experts and back.  No seconds here."""

from __future__ import annotations

from dataclasses import replace

from datahall.case.model import ModelShape
from datahall.compute.handed_tensor import Handed, word_bytes
from datahall.compute.plan import ComputePlan

COUNT_BYTES = 8  # of a number of rows, as ranks tell each other


def routed_handed(shape: ModelShape, sequence: int, plan: ComputePlan, mixtures: int) -> dict[str, Handed]:
    """What an expert rank that holds `mixtures` hands over in a step, the mean over the ranks that share the experts.

    In each mixture and micro-step a count for each expert, the rows there and back, and their gradients; with full
    recomputation the way forward twice.  A row that stays where it is is handed over too.
    """
    passes = mixtures * plan.accumulation
    again = 2 if plan.recompute == "full" else 1
    rows = plan.micro_batch * sequence * shape.experts_per_token
    size = again * COUNT_BYTES * shape.experts + 2 * (again + 1) * rows * shape.hidden * word_bytes(plan)
    return {"all_to_all": (passes * (3 * again + 2), passes * size)} if passes else {}


def plan_of_experts(plan: ComputePlan) -> ComputePlan:
    """How an expert rank's experts are exchanged: a plan of the workers alone that hold the same ones."""
    return replace(
        plan,
        data=plan.copies // plan.expert,
        context=1,
        expert=1,
        shard_group=max(1, plan.shards // plan.expert),
    )
