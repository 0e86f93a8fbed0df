"""What context ranks exchange: calls and exact bytes of one worker and step.  No seconds here."""

from __future__ import annotations

from datahall.case.model import ModelShape
from datahall.compute.handed_tensor import Handed, word_bytes
from datahall.compute.plan import ComputePlan


def ring_handed(shape: ModelShape, sequence: int, plan: ComputePlan, layers: int) -> dict[str, Handed]:
    """What a worker with so many `layers` hands to the next context rank.

    Keys and values of its tokens go around once forward, and again where attention is recomputed; in the backward pass
    they do so with their gradients.
    """
    passes = 3 + (plan.recompute != "none")
    sends = plan.accumulation * layers * passes * (plan.context - 1)
    kept = 2 * max(1, shape.kv_heads // plan.tensor) * shape.head_dim
    size = plan.micro_batch * (sequence // plan.context) * kept * word_bytes(plan)
    return {"send": (sends, sends * size)} if sends else {}
