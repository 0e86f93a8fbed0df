"""What a split hands to its collectives: exact bytes of one worker and step, from the shapes of its parameters.

Bytes are those of the tensor that a worker hands in: a shard for an all-gather, the whole for a reduce-scatter, nothing
for receiving.  What a library then puts on the wire is its own decision.  No seconds here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datahall.case.model import ModelShape
from datahall.compute.adapters import Adapters
from datahall.compute.handed_context import ring_handed
from datahall.compute.handed_experts import plan_of_experts, routed_handed
from datahall.compute.handed_tensor import Handed, TensorCuts, language_model_cuts, tensor_handed, together, word_bytes
from datahall.compute.inventory import (
    Inventory,
    Shape,
    adapted_inventory,
    element_count,
    routed_inventory,
    share_count,
)
from datahall.compute.layout import stage_layers
from datahall.compute.plan import ComputePlan

GRADIENT_BYTES = 4  # parameters, gradients and Adam's moments stay 32-bit; only products are narrower
FLAT_MULTIPLE = 5040  # elements that the flat buffer of ZeRO stage 1 is rounded up to: any number to 10 divides it


def countable(shape: ModelShape, plan: ComputePlan) -> bool:
    """Whether datahall runs this shape and split itself, so that its collectives are known exactly."""
    ours = not (shape.learned_positions or shape.mlp_bias or shape.query_key_norm)
    shared_out = plan.expert == 1 or (shape.experts > 0 and shape.experts % plan.expert == 0)
    return ours and shape.mlp_matrices == 3 and shared_out


def handed_over(
    shape: ModelShape, sequence: int, plan: ComputePlan, stage: int, adapters: Adapters | None = None
) -> dict[str, Handed]:
    """What one worker of our language model hands over in a step, by kind of collective; {} for one worker.

    Where gradients travel in buckets, one bucket is counted; more do not change the bytes.  With `adapters` their
    gradients alone travel.  Which rows an expert rank gets is the router's choice:
    of its bytes, `all_to_all` is the mean over the ranks that share the experts, and exact for all of them together.
    """
    inventory, trained = adapted_inventory(shape, adapters, plan.tensor, routed=plan.expert == 1)
    own = sequence // plan.context
    cuts = _stage_cuts(shape, own, plan, stage, adapters)
    common = inventory.root[:1] if shape.tied_embeddings and adapters is None else ()
    within = within_copy(plan.micro_batch * own * shape.hidden, cuts, plan, stage, common)
    parts, learnt = (
        held_parts(which, plan, stage, _ends(which) if plan.pipeline > 1 else None) for which in (inventory, trained)
    )
    ring = ring_handed(shape, sequence, plan, sum(len(part.blocks) for part in parts))
    experts = _experts_handed(shape, own // plan.tensor, plan, stage, adapters is None) if plan.expert > 1 else {}
    return merged(within, ring, exchange_handed(parts, plan, learnt), experts)


def bucket_sizes(shapes: Sequence[Shape], bucket_bytes: int) -> list[int]:
    """Bytes of the buckets that gradients travel in, in the order in which they are handed over.

    `shapes` are in the order in which gradients are ready.  DDP adds tensors to a bucket until it holds `bucket_bytes`.
    """
    found = [0]
    for shape in shapes:
        if found[-1] >= bucket_bytes:
            found.append(0)
        found[-1] += GRADIENT_BYTES * element_count(shape)
    return found


def held_parts(
    inventory: Inventory,
    plan: ComputePlan,
    stage: int,
    outside: tuple[Sequence[Shape], Sequence[Shape]] | None = None,
) -> list[Inventory]:
    """What one worker of `stage` holds: its chunks of blocks, the first and the last with what is outside of them.

    `outside` is what the first and what the last stage hold of that, by default the root before and behind the blocks.
    """
    stages, blocks = plan.pipeline * plan.virtual_stages, inventory.blocks
    first, last = outside or (inventory.root[: inventory.before], inventory.root[inventory.before :])
    found: list[Inventory] = []
    for index in range(stage, stages, plan.pipeline):
        own = stage_layers(len(blocks), stages, index)
        before = tuple(first) if index == 0 else ()
        behind = tuple(last) if index == stages - 1 else ()
        found.append(Inventory(blocks[own.start : own.stop], (*before, *behind), len(before)))
    return found


def exchange_handed(
    parts: Sequence[Inventory], plan: ComputePlan, trained: Sequence[Inventory] | None = None
) -> dict[str, Handed]:
    """What a worker that holds `parts` hands over to those that hold them too (data and context ranks).

    `trained` is what of the parts has gradients.
    """
    if plan.copies == 1:
        return {}
    trained = parts if trained is None else trained
    if plan.zero_stage >= 2:
        return _block_by_block(parts, plan, trained)
    count, shards = sum(part.parameters for part in trained), plan.shards
    if not count:
        return {}
    if plan.zero_stage == 0:
        return {"all_reduce": (1, GRADIENT_BYTES * count)}
    whole = GRADIENT_BYTES * -(-count // FLAT_MULTIPLE) * FLAT_MULTIPLE
    spread: dict[str, Handed] = {"reduce_scatter": (1, whole), "all_gather": (1, whole // shards)}
    summed: dict[str, Handed] = {"all_reduce": (1, whole // shards)}
    return merged(spread if shards > 1 else {}, summed if shards < plan.copies else {})


def _block_by_block(parts: Sequence[Inventory], plan: ComputePlan, trained: Sequence[Inventory]) -> dict[str, Handed]:
    """ZeRO stages 2 and 3 by PyTorch's fully_shard; what is outside of the blocks is gathered as often as scattered."""
    shards, steps = plan.shards, scatters(plan)
    found: dict[str, Handed] = {}
    for part, learnt in zip(parts, trained, strict=True):
        groups = [(block, block_gathers(plan)) for block in part.blocks] + [(part.root, steps)]
        for (shapes, gathers), reduced in zip(groups, [*learnt.blocks, learnt.root], strict=True):
            pieces, sums = (sum(share_count(shape, shards) for shape in which) for which in (shapes, reduced))
            if shapes and shards > 1:
                found = merged(found, {"all_gather": (gathers, gathers * word_bytes(plan) * pieces)})
            if reduced and shards > 1:
                found = merged(found, {"reduce_scatter": (steps, steps * GRADIENT_BYTES * shards * sums)})
            if reduced and shards < plan.copies:
                found = merged(found, {"all_reduce": (steps, steps * GRADIENT_BYTES * sums)})
    return found


def block_gathers(plan: ComputePlan) -> int:
    """How often a step gathers the parameters of each block with ZeRO stages 2 and 3.

    Without a pipeline in every micro-step, stage 3 again for the backward pass.  In a pipeline parameters stay gathered
    after a backward pass: stage 3 gathers once more than there are micro-batches, whatever the order of the passes.
    """
    again = plan.zero_stage == 3
    if plan.pipeline > 1:
        return plan.accumulation + 1 if again else 1
    return 2 * plan.accumulation if again else plan.accumulation


def scatters(plan: ComputePlan) -> int:
    """How often a step sums gradients with ZeRO stages 2 and 3: in every micro-step, in a pipeline after the last."""
    return 1 if plan.pipeline > 1 else plan.accumulation


def merged(*parts: Mapping[str, Handed]) -> dict[str, Handed]:
    """Calls and bytes of several exchanges together, by kind."""
    found: dict[str, Handed] = {}
    for part in parts:
        for kind, (calls, size) in part.items():
            before = found.get(kind, (0, 0))
            found[kind] = (before[0] + calls, before[1] + size)
    return found


def within_copy(
    elements: int,
    cuts: TensorCuts,
    plan: ComputePlan,
    stage: int,
    common: Sequence[Shape] = (),
    taught_from: int = 0,
) -> dict[str, Handed]:
    """What a worker of `stage` hands to others of its copy: to tensor ranks by the `cuts` it holds, and to stages.

    `elements` of a micro-batch go to the next stage in 32 bits, with sequence parallelism a share by each tensor rank;
    a gradient of that size goes back, if one of the stages before trains anything (the first that does is
    `taught_from`).  The first and the last stage tell each other their gradients of `common`, a
    tensor rank's parameters that both use, once a step.
    """
    found = tensor_handed(cuts, plan) if plan.tensor > 1 else {}
    if plan.pipeline == 1:
        return found
    stages = plan.pipeline * plan.virtual_stages
    mine = range(stage, stages, plan.pipeline)
    sends = plan.accumulation * sum((index < stages - 1) + (index > taught_from) for index in mine)
    share = plan.tensor if plan.sequence_parallel else 1
    stream: dict[str, Handed] = {"send": (sends, 4 * elements * sends // share)} if sends else {}
    sent = merged(stream, _common_handed(common, plan, mine))
    return {**found, **sent}


def _experts_handed(
    shape: ModelShape, sequence: int, plan: ComputePlan, stage: int, trained: bool
) -> dict[str, Handed]:
    """Rows to experts and back, and what is exchanged of the experts of an expert rank of `stage`, `trained` or not."""
    parts = held_parts(routed_inventory(shape, plan), plan, stage)
    mixtures = sum(1 for part in parts for block in part.blocks if block)
    learnt = parts if trained else [Inventory(tuple(() for _ in part.blocks), ()) for part in parts]
    rows = routed_handed(shape, sequence, plan, mixtures)
    return merged(rows, exchange_handed(parts, plan_of_experts(plan), learnt))


def _common_handed(common: Sequence[Shape], plan: ComputePlan, mine: Sequence[int]) -> dict[str, Handed]:
    if not common or not {0, plan.pipeline * plan.virtual_stages - 1} & set(mine):
        return {}
    shards = plan.shards if plan.zero_stage >= 2 else 1
    return {"send": (len(common), GRADIENT_BYTES * sum(share_count(shape, shards) for shape in common))}


def _stage_cuts(
    shape: ModelShape, sequence: int, plan: ComputePlan, stage: int, adapters: Adapters | None
) -> TensorCuts:
    """The cuts of all parts of our language model that a worker of `stage` holds."""
    stages = plan.pipeline * plan.virtual_stages
    ends = [(index == 0, index == stages - 1) for index in range(stages)]
    layers = [stage_layers(shape.layers, stages, index) for index in range(stages)]
    parts = [
        language_model_cuts(shape, sequence, own, plan, adapters, first=first, last=last)
        for own, (first, last) in zip(layers, ends, strict=True)
    ]
    return together(parts[stage :: plan.pipeline])


def _ends(inventory: Inventory) -> tuple[Sequence[Shape], Sequence[Shape]]:
    """Our language model outside the blocks: the table on the first stage, norm and head (or the table) on the last."""
    if not inventory.root:
        return (), ()
    table, *rest = inventory.root
    return (table,), (rest if len(rest) > 1 else (*rest, table))
