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
    size = plan.micro_batch * (sequence // plan.context) * _kept(shape, plan.tensor) * word_bytes(plan)
    return {"send": (sends, sends * size)} if sends else {}


def _kept(shape: ModelShape, ranks: int) -> int:
    """Elements of one token's keys and values on a tensor rank, as the attention core is given them."""
    if shape.latent is not None:
        latent = shape.latent
        return shape.heads // ranks * (latent.nope_dim + latent.rope_dim + latent.value_dim)
    return 2 * max(1, shape.kv_heads // ranks) * shape.head_dim
