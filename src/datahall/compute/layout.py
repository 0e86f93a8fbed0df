"""Which worker does which part of a split: rank to (stage, data, context, tensor) and back.

Tensor ranks are neighbours, then context ranks, then data ranks, then pipeline stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from datahall.base.errors import Refused
from datahall.case.model import ModelShape
from datahall.compute.plan import ComputePlan


@dataclass(frozen=True, slots=True)
class Place:
    """One worker's coordinates."""

    stage: int
    data: int
    tensor: int
    context: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The workers of a split, `data` copies of `tensor` x `context` x `pipeline` workers each."""

    data: int
    tensor: int
    pipeline: int
    context: int = 1

    @classmethod
    def of(cls, plan: ComputePlan, workers: int | None = None) -> Layout:
        """The layout of a plan, with as many copies as `workers` allow (by default the plan's)."""
        of_one_copy = plan.tensor * plan.context * plan.pipeline
        copies = plan.data if workers is None else workers // of_one_copy
        return cls(copies, plan.tensor, plan.pipeline, plan.context)

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return self.data * self.tensor * self.context * self.pipeline

    @property
    def copies(self) -> int:
        """Workers that hold the same parameters: data and context ranks."""
        return self.data * self.context

    @property
    def voice(self) -> int:
        """The first worker of the last stage: it knows the loss, and the counts of a run are its counts."""
        return (self.pipeline - 1) * self.data * self.context * self.tensor

    def place(self, rank: int) -> Place:
        """The coordinates of `rank`."""
        rest, tensor = divmod(rank, self.tensor)
        rest, context = divmod(rest, self.context)
        stage, data = divmod(rest, self.data)
        return Place(stage, data, tensor, context)


def splits_evenly(shape: ModelShape, ranks: int) -> bool:
    """Whether so many tensor ranks get equal parts of every layer; where heads are fewer, some have the same one."""
    kept = shape.latent is not None or shape.kv_heads % ranks == 0 or ranks % shape.kv_heads == 0
    widths = (shape.ffn, shape.shared_ffn, shape.dense_ffn if shape.dense_layers else 0)
    return shape.heads % ranks == 0 and kept and all(width % ranks == 0 for width in widths)


def stage_layers(layers: int, stages: int, stage: int) -> range:
    """The layers of one of `stages` pipeline stages: as even as can be, earlier stages one more."""
    share, more = divmod(layers, stages)
    start = stage * share + min(stage, more)
    return range(start, start + share + (1 if stage < more else 0))


def held_layers(layers: int, plan: ComputePlan, stage: int) -> list[int]:
    """The layers of all chunks that a worker of `stage` holds."""
    chunks = plan.pipeline * plan.virtual_stages
    return [layer for chunk in range(stage, chunks, plan.pipeline) for layer in stage_layers(layers, chunks, chunk)]


def check_runnable(plan: ComputePlan) -> None:
    """Refused unless datahall runs this split: data, any ZeRO stage, context, tensor, pipeline, experts."""
    if plan.zero_stage not in range(4):
        raise Refused(
            f"ZeRO has stages 0 to 3, not {plan.zero_stage}.",
            where="plan.compute.zero_stage",
            hint="Choose 3 to spread everything.",
        )
    if not groups_nest(plan):
        raise Refused(
            f"groups of {plan.expert} expert ranks and of {plan.shards} that share a copy are not inside one another.",
            where="plan.compute",
            hint="Choose expert and shard_group so that one divides the other and both the data ranks.",
        )
    if plan.zero_stage and plan.shards % plan.context:
        raise Refused(
            f"{plan.shards} ranks that share a copy are not whole groups of {plan.context} context ranks.",
            where="plan.compute.shard_group",
            hint="Choose shard_group as a multiple of context.",
        )


def groups_nest(plan: ComputePlan) -> bool:
    """Whether workers that share a sequence, all experts or a copy form groups that lie inside one another."""
    sizes = sorted((plan.context, plan.expert, plan.shards if plan.zero_stage else 1, plan.copies))
    return all(outer % inner == 0 for inner, outer in pairwise(sizes))
