"""What a split hands to its collectives: exact bytes of one worker and step, from the shapes of its parameters.

Bytes are those of the tensor that a worker hands in: a shard for an all-gather, the whole for a reduce-scatter, nothing
for receiving.  What a library then puts on the wire is its own decision.  No seconds here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datahall.case.model import ModelShape
from datahall.compute.adapters import Adapters
from datahall.compute.layout import stage_layers
from datahall.compute.plan import ComputePlan

GRADIENT_BYTES = 4  # parameters, gradients and Adam's moments stay 32-bit; only products are narrower
FLAT_MULTIPLE = 5040  # elements that the flat buffer of ZeRO stage 1 is rounded up to: any number to 10 divides it

Shape = tuple[int, ...]
Handed = tuple[int, int]  # calls, bytes


@dataclass(frozen=True, slots=True)
class Inventory:
    """The shapes of a model's parameters: those of each block, and of what is outside the blocks (root).

    The first `before` of the root lie before the blocks, the others behind them.
    """

    blocks: tuple[tuple[Shape, ...], ...]
    root: tuple[Shape, ...]
    before: int = 0

    @property
    def shapes(self) -> list[Shape]:
        """All of them, block by block."""
        return [shape for block in (*self.blocks, self.root) for shape in block]

    @property
    def parameters(self) -> int:
        """Elements of all of them."""
        return sum(element_count(shape) for shape in self.shapes)

    @property
    def by_readiness(self) -> list[Shape]:
        """All of them, from the one whose gradient the backward pass has first to the one whose it has last."""
        inside = [shape for block in self.blocks for shape in block]
        forward = [*self.root[: self.before], *inside, *self.root[self.before :]]
        return forward[::-1]


def language_model_inventory(shape: ModelShape) -> Inventory:
    """The parameters of our language model (dense, gated MLP), block by block."""
    query, kept = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention: list[Shape] = [(query, shape.hidden), (kept, shape.hidden), (kept, shape.hidden), (shape.hidden, query)]
    bias: list[Shape] = [(query,), (kept,), (kept,)] if shape.attention_bias else []
    mlp: list[Shape] = [(shape.ffn, shape.hidden), (shape.ffn, shape.hidden), (shape.hidden, shape.ffn)]
    block = ((shape.hidden,), *attention, *bias, (shape.hidden,), *mlp)
    table = (shape.vocab, shape.hidden)
    table_and_norm: tuple[Shape, ...] = (table, (shape.hidden,))
    head: tuple[Shape, ...] = () if shape.tied_embeddings else (table,)
    return Inventory(tuple(block for _ in range(shape.layers)), table_and_norm + head, before=1)


def trained_tensors(shape: ModelShape, adapters: Adapters | None) -> int:
    """Tensors that get gradients: the adapters' two each, or all of a model like our language model."""
    if adapters is not None:
        return 2 * shape.layers * len(adapters.matrices(shape))
    return len(language_model_inventory(shape).shapes)


def perceptron_inventory(shape: ModelShape) -> Inventory:
    """The parameters of workloads.mlp, block by block."""
    block: tuple[Shape, ...] = ((shape.ffn, shape.hidden), (shape.ffn,), (shape.hidden, shape.ffn), (shape.hidden,))
    return Inventory(tuple(block for _ in range(shape.layers)), ((shape.vocab, shape.hidden), (shape.vocab,)))


def recommender_inventory(shape: ModelShape) -> Inventory:
    """The parameters of workloads.recommender: two tables and the tower."""
    table: Shape = (shape.vocab, shape.hidden)
    tower: tuple[Shape, ...] = ((shape.ffn, 2 * shape.hidden), (shape.ffn,), (1, shape.ffn), (1,))
    return Inventory(((table,), (table,), tower), ())


def countable(shape: ModelShape, plan: ComputePlan) -> bool:
    """Whether datahall runs this shape and split itself, so that its collectives are known exactly."""
    ours = not (shape.experts or shape.latent or shape.learned_positions or shape.mlp_bias or shape.query_key_norm)
    degrees = (plan.tensor > 1) + (plan.pipeline > 1) + (plan.zero_stage > 0)
    run = degrees <= 1 and max(plan.context, plan.expert) == 1 and not (plan.tensor > 1 and plan.sequence_parallel)
    return ours and shape.mlp_matrices == 3 and run


def handed_over(
    shape: ModelShape, sequence: int, plan: ComputePlan, stage: int, adapters: Adapters | None = None
) -> dict[str, Handed]:
    """What one worker of our language model hands over in a step, by kind of collective; {} for one worker.

    Where gradients travel in buckets, one bucket is counted; more do not change the bytes.  With `adapters` (plain data
    parallelism only) their gradients alone travel.
    """
    if adapters is not None:
        return {"all_reduce": (1, GRADIENT_BYTES * adapters.parameters(shape))} if plan.data > 1 else {}
    inventory = language_model_inventory(shape)
    if plan.pipeline > 1:
        return pipeline_handed(inventory, plan.micro_batch * sequence * shape.hidden, plan, stage)
    if plan.tensor > 1:
        return tensor_handed(shape, sequence, plan)
    if plan.data == 1:
        return {}
    if plan.zero_stage:
        return sharded_handed(inventory, plan)
    return {"all_reduce": (1, GRADIENT_BYTES * inventory.parameters)}


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


def sharded_handed(inventory: Inventory, plan: ComputePlan) -> dict[str, Handed]:
    """ZeRO stages 1 to 3: stage 1 once a step on one flat buffer, the others block by block in every micro-step."""
    ranks = plan.data
    if plan.zero_stage == 1:
        whole = GRADIENT_BYTES * -(-inventory.parameters // FLAT_MULTIPLE) * FLAT_MULTIPLE
        return {"reduce_scatter": (1, whole), "all_gather": (1, whole // ranks)}
    shards = min(plan.shard_group or ranks, ranks)
    blocks = sum(_shard(shape, shards) for block in inventory.blocks for shape in block)
    root = sum(_shard(shape, shards) for shape in inventory.root)
    gathers, steps, units = (2 if plan.zero_stage == 3 else 1), plan.accumulation, len(inventory.blocks)
    outside = 1 if inventory.root else 0
    reduced = steps * GRADIENT_BYTES * (blocks + root)
    found = {
        "all_gather": (steps * (gathers * units + outside), steps * word_bytes(plan) * (gathers * blocks + root)),
        "reduce_scatter": (steps * (units + outside), shards * reduced),
    }
    if shards < ranks:
        found["all_reduce"] = (steps * (units + outside), reduced)
    return found


def tensor_handed(shape: ModelShape, sequence: int, plan: ComputePlan) -> dict[str, Handed]:
    """Data x tensor parallelism of our language model, without sequence parallelism.

    Forward, the table and each block's two row-cut products are summed; backward, the gradient of each cut input.
    Products are in the plan's precision, gradients of inputs that norms make in 32 bits.
    """
    tokens = plan.micro_batch * sequence
    sums = 2 * shape.layers
    stream = plan.accumulation * tokens * shape.hidden
    summed = stream * (4 + sums * word_bytes(plan) + 4 * (sums + 1))
    logits = plan.accumulation * tokens * shape.vocab // plan.tensor
    calls = plan.accumulation * (2 * sums + 2)
    if plan.data > 1:
        calls, summed = calls + 1, summed + GRADIENT_BYTES * tensor_parameters(shape, plan.tensor)
    return {"all_reduce": (calls, summed), "all_gather": (plan.accumulation, word_bytes(plan) * logits)}


def tensor_parameters(shape: ModelShape, ranks: int) -> int:
    """Parameters of our language model on one tensor rank: norms whole, the rest cut."""
    whole = shape.hidden * (2 * shape.layers + 1)
    return whole + (language_model_inventory(shape).parameters - whole) // ranks


def pipeline_handed(
    inventory: Inventory, elements: int, plan: ComputePlan, stage: int, outside: tuple[int, int] | None = None
) -> dict[str, Handed]:
    """Data x pipeline parallelism: `elements` is what one micro-batch hands from stage to stage, in 32 bits.

    It goes forward to the next stage, and a gradient of the same size back.  `outside` are the parameters outside the
    blocks on the first and on the last stage, by default those of our language model.
    """
    stages, blocks = plan.pipeline * plan.virtual_stages, len(inventory.blocks)
    mine = range(stage, stages, plan.pipeline)
    sends = plan.accumulation * sum((index < stages - 1) + (index > 0) for index in mine)
    found = {"send": (sends, 4 * elements * sends)}
    if plan.data > 1:
        own = [inventory.blocks[at] for index in mine for at in stage_layers(blocks, stages, index)]
        first, last = _ends(inventory) if outside is None else outside
        ends = (first if 0 in mine else 0) + (last if stages - 1 in mine else 0)
        held = sum(element_count(shape) for block in own for shape in block) + ends
        found["all_reduce"] = (1, GRADIENT_BYTES * held)
    return found


def word_bytes(plan: ComputePlan) -> int:
    """Bytes of a number that products give."""
    return 4 if plan.precision in ("fp32", "tf32") else 2


def _ends(inventory: Inventory) -> tuple[int, int]:
    """Parameters of our language model outside the blocks: the table on the first stage, norm and head on the last."""
    table, norm, *head = inventory.root
    return element_count(table), element_count(norm) + element_count(head[0] if head else table)


def _shard(shape: Shape, ranks: int) -> int:
    """Elements of one rank's padded piece, cut along the first dimension."""
    return -(-shape[0] // ranks) * element_count(shape[1:])


def element_count(shape: Shape) -> int:
    """Elements of a tensor of this shape."""
    found = 1
    for length in shape:
        found *= length
    return found
