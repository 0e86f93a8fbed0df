"""What a model's parameters are, by shape: those of each block, and those outside the blocks.

Values alone: which worker holds which of them, and what of them travels, is `handed`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from datahall.case.model import LatentAttention, ModelShape
from datahall.compute.adapters import Adapters
from datahall.compute.plan import ComputePlan

Shape = tuple[int, ...]


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


def language_model_inventory(shape: ModelShape, ranks: int = 1, *, routed: bool = True) -> Inventory:
    """The parameters of our language model on one of `ranks` tensor ranks, block by block.

    Without those of routed experts where `routed` is False: then the rest of a mixture is whole on every rank.
    """
    query, kept = shape.heads * shape.head_dim // ranks, shape.kv_heads * shape.head_dim
    kept = kept if ranks > shape.kv_heads else kept // ranks  # each rank has all, and uses one
    attention: list[Shape] = [(query, shape.hidden), (kept, shape.hidden), (kept, shape.hidden), (shape.hidden, query)]
    bias: list[Shape] = [(query,), (kept,), (kept,)] if shape.attention_bias else []
    heads = (*attention, *bias) if shape.latent is None else _latent(shape, shape.latent, ranks)
    around = ((shape.hidden,), *heads, (shape.hidden,))
    dense = (*around, *_gated(shape.hidden, (shape.dense_ffn if shape.experts else shape.ffn) // ranks))
    experts = shape.experts * _gated(shape.hidden, shape.ffn // ranks) if routed else ()
    mixed = (*around, *_router(shape), *experts, *_shared_experts(shape, ranks if routed else 1))
    table = (shape.vocab // ranks, shape.hidden)
    table_and_norm: tuple[Shape, ...] = (table, (shape.hidden,))
    head: tuple[Shape, ...] = () if shape.tied_embeddings else (table,)
    blocks = (dense,) * (shape.layers - shape.moe_layers) + (mixed,) * shape.moe_layers
    return Inventory(blocks, table_and_norm + head, before=1)


def routed_inventory(shape: ModelShape, plan: ComputePlan) -> Inventory:
    """The parameters of the routed experts of our language model that one expert rank of `plan` holds."""
    held = routed_experts(shape, plan)
    return Inventory(((),) * (shape.layers - shape.moe_layers) + (held,) * shape.moe_layers, ())


def adapted_inventory(
    shape: ModelShape, adapters: Adapters | None, ranks: int = 1, *, routed: bool = True
) -> tuple[Inventory, Inventory]:
    """The parameters of our language model on a tensor rank, adapters among them, and those that are trained.

    Without those of routed experts where `routed` is False.
    """
    whole = language_model_inventory(shape, ranks, routed=routed)
    if adapters is None:
        return whole, whole
    pieces = adapters.on_rank(shape, ranks)
    thin = tuple(one for pair in zip(pieces.reduce, pieces.expand, strict=True) for one in pair)
    blocks = tuple((*block, *thin) for block in whole.blocks)
    return Inventory(blocks, whole.root, whole.before), Inventory(tuple(thin for _ in blocks), ())


def trained_tensors(shape: ModelShape, adapters: Adapters | None) -> int:
    """Tensors that get gradients: the adapters' two each, or all of a model like our language model."""
    if adapters is not None:
        return 2 * shape.layers * len(adapters.matrices(shape))
    return len(language_model_inventory(shape).shapes)


def element_count(shape: Shape) -> int:
    """Elements of a tensor of this shape."""
    found = 1
    for length in shape:
        found *= length
    return found


def beside(one: Inventory, other: Inventory) -> Inventory:
    """Both inventories of the same blocks as one."""
    blocks = tuple((*first, *second) for first, second in zip(one.blocks, other.blocks, strict=True))
    return Inventory(blocks, (*one.root, *other.root))


def share_count(shape: Shape, ranks: int) -> int:
    """Elements of the largest of `ranks` pieces of a tensor, cut along the first dimension; others are padded to it."""
    return -(-shape[0] // ranks) * element_count(shape[1:])


def routed_experts(shape: ModelShape, plan: ComputePlan) -> tuple[Shape, ...]:
    """The experts of one mixture that an expert rank holds, whole on each tensor rank."""
    return shape.experts // plan.expert * _gated(shape.hidden, shape.ffn)


def around_experts(shape: ModelShape) -> tuple[Shape, ...]:
    """What is beside the routed experts of one mixture."""
    return (*_router(shape), *_shared_experts(shape))


def latent_down(shape: ModelShape, latent: LatentAttention) -> tuple[Shape, ...]:
    """What every tensor rank has whole of latent attention: ways down to latents and their norms, of queries first."""
    rank, narrow = latent.query_rank, latent.key_value_rank
    queries: tuple[Shape, ...] = ((rank, shape.hidden), (rank,)) if rank else ()
    return (*queries, (narrow + latent.rope_dim, shape.hidden), (narrow,))


def _router(shape: ModelShape) -> tuple[Shape, ...]:
    return ((shape.experts, shape.hidden), *(((shape.experts,),) if shape.router_balance else ()))


def _shared_experts(shape: ModelShape, ranks: int = 1) -> tuple[Shape, ...]:
    return shape.shared_experts * _gated(shape.hidden, shape.shared_ffn // ranks)


def _latent(shape: ModelShape, latent: LatentAttention, ranks: int) -> tuple[Shape, ...]:
    """Latent attention: queries, keys and values, output; by heads, so divided among the ranks, but for the latents."""
    heads, down = shape.heads // ranks, latent_down(shape, latent)
    return (
        *down[:-2],
        (heads * (latent.nope_dim + latent.rope_dim), latent.query_rank or shape.hidden),
        *down[-2:],
        (heads * (latent.nope_dim + latent.value_dim), latent.key_value_rank),
        (shape.hidden, heads * latent.value_dim),
    )


def _gated(hidden: int, width: int) -> tuple[Shape, ...]:
    """A gated MLP: gate, up and down."""
    return ((width, hidden), (width, hidden), (hidden, width))
