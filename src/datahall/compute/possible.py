"""Whether a plan can exist at all for a model: what every engine would refuse.

What datahall's own engine runs is `layout.check_runnable`'s, what pays is the search's.
"""

from __future__ import annotations

from collections.abc import Iterator

from datahall.base.errors import UsageError
from datahall.case.model import ModelShape
from datahall.compute.context import check_pieces
from datahall.compute.layout import splits_evenly
from datahall.compute.plan import ComputePlan

_COUNTED = (
    "data", "tensor", "pipeline", "virtual_stages", "context", "expert", "micro_batch", "accumulation", "threads",
)  # fmt: skip


def check_possible(plan: ComputePlan, model: ModelShape, sequence: int, global_batch: int) -> None:
    """Raise UsageError (Refused for a sequence) with the first reason why `model` cannot be trained so."""
    for what, hint in _reasons(plan, model, global_batch):
        raise UsageError(what, where="plan.compute", hint=hint)
    check_pieces(sequence, plan.context)


def _reasons(plan: ComputePlan, model: ModelShape, global_batch: int) -> Iterator[tuple[str, str]]:
    """What is wrong and what to do about it; later reasons rest on earlier ones not being there."""
    for name in _COUNTED:
        if getattr(plan, name) < 1:
            yield f"{name} is {getattr(plan, name)}.", "It must be at least one."
    if plan.zero_stage not in range(4):
        yield f"there is no ZeRO stage {plan.zero_stage}.", "Write 0, 1, 2 or 3."
    if plan.shard_group < 0 or plan.copies % plan.shards:
        yield f"{plan.copies} ranks cannot share copies in groups of {plan.shard_group}.", "Choose a divisor, or 0."
    chunks = plan.pipeline * plan.virtual_stages
    if chunks > model.layers:
        yield f"{model.layers} layers do not fill {chunks} chunks.", "Choose fewer stages, or fewer chunks a stage."
    if not splits_evenly(model, plan.tensor):
        yield f"{plan.tensor} tensor ranks get no equal parts of {model.name}.", "They must divide heads and widths."
    if plan.expert > 1 and (model.experts % plan.expert or not model.experts or plan.copies % plan.expert):
        held = f"{model.experts} experts" if model.experts else f"{model.name}, which has none"
        yield f"{plan.expert} expert ranks among {plan.copies} do not share {held}.", "Choose a divisor of both."
    if plan.global_batch != global_batch:
        what = f"it takes {plan.global_batch:,} sequences a step, and the case asks for {global_batch:,}."
        yield what, "data x micro_batch x accumulation is the case's global batch."
