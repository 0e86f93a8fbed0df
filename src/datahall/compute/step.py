"""The step table of a compute plan: every row's exact FLOPs, bytes and kernels on one worker.

Counted as torch's FlopCounterMode counts: a product of m x k with k x n is 2 m n k; the attention core is counted in
full (not halved for causality), two products forward and five backward, because the fused kernel recomputes the scores,
and values as wide as queries, since narrower ones are filled up for it; of context ranks a worker's own tokens in full,
and half of the others' (which are the ones that it looks at).
Bytes are memory traffic of an ideal kernel that reads each operand once; no seconds here.
"""

from __future__ import annotations

from datahall.base.errors import UsageError
from datahall.base.step_table import Component, Row, StepTable
from datahall.case.model import ModelShape
from datahall.compute.adapters import ALL, Adapters, trained_parameters
from datahall.compute.counts import ShapeCounts
from datahall.compute.handed import GRADIENT_BYTES, countable, handed_over
from datahall.compute.layout import held_layers
from datahall.compute.plan import ComputePlan

_BYTES = {"fp32": 4, "tf32": 4}


def step_table(
    shape: ModelShape,
    sequence: int,
    plan: ComputePlan,
    *,
    stage: int | None = None,
    fused_attention: bool = True,
    adapters: Adapters | None = None,
) -> StepTable:
    """The rows of one optimiser step on one worker.

    `stage` picks the pipeline stage (default: the last, which also has the head); with tensor or context parallelism
    each worker has an equal share, counts rounded down.  `fused_attention` False counts four products backward.
    With `adapters` everything else is frozen: its weights get no gradients, only inputs do.
    """
    counts = ShapeCounts.of(shape)
    last = plan.pipeline - 1
    stage = last if stage is None else stage
    own_layers, own_moe = _stage_layers(counts, plan, stage)
    tokens = plan.accumulation * plan.micro_batch * sequence // plan.context
    word = _BYTES.get(plan.precision, 2)
    products = 2 if adapters is None else 1
    repeated = _repeated_weights(shape, counts, plan.tensor)
    rows = _layer_rows(counts, own_layers, own_moe, tokens, sequence, plan, word, fused_attention, products, repeated)
    if stage == 0:
        rows.append(_embedding_row(counts, tokens, word))
    if stage == last:
        rows += _head_rows(counts, tokens, plan, word, products)
    last_weights = counts.dense_weights // counts.mlp_matrices // plan.tensor
    if adapters is not None:
        rows += _adapter_rows(shape, adapters, tokens, plan, stage, own_layers, word)
        last_weights = adapters.rank * counts.hidden if adapters.targets == ALL else last_weights
    rows += _recompute_rows(rows, plan, 2 * tokens * (own_layers - own_moe) * last_weights)
    trained = trained_parameters(shape, adapters)
    if countable(shape, plan):
        handed = handed_over(shape, sequence, plan, stage, adapters)
        rows += [Row(kind, Component.TRANSFER, 0, size, messages=calls) for kind, (calls, size) in handed.items()]
    else:
        rows += _exchange_rows(shape, sequence, plan, own_layers, word, trained)
    rows.append(_optimiser_row(trained, plan, own_layers))
    return StepTable(tuple(row for row in rows if row.flops or row.bytes))


def _stage_layers(counts: ShapeCounts, plan: ComputePlan, stage: int) -> tuple[int, int]:
    own = held_layers(counts.layers, plan, stage)
    dense_first = counts.layers - counts.moe_layers
    return len(own), sum(1 for layer in own if layer >= dense_first) if counts.moe_layers else 0


def _layer_rows(
    counts: ShapeCounts,
    layers: int,
    moe: int,
    tokens: int,
    sequence: int,
    plan: ComputePlan,
    word: int,
    fused: bool,
    products: int,
    repeated: int,
) -> list[Row]:
    """Rows of the layers; `repeated` are weights of attention that several tensor ranks have, once for each rank more.

    `products` is matrix products backward for each forward (1 where weights are frozen).
    """
    rows: list[Row] = []
    tensor, micro_steps = plan.tensor, plan.accumulation
    dense = layers - moe

    def product(name: str, count: int, weights: int, width: int, kernels: int, share: int = 1) -> None:
        flops = 2 * tokens * weights * share * count // tensor
        moved = word * count * (weights * micro_steps + tokens * (2 * counts.hidden + width) * share) // tensor
        launches = kernels * count * micro_steps
        rows.append(Row(f"{name} forward", Component.COMPUTE, flops, moved, kernels=launches))
        backward = (products * flops, products * moved)
        rows.append(Row(f"{name} backward", Component.COMPUTE, *backward, kernels=products * launches))

    product("attention projections", layers, counts.attention_weights + repeated, counts.attention_width, 4)
    _attention_core(rows, counts, layers, tokens, sequence, plan, word, fused)
    product("mlp", dense, counts.dense_weights, counts.dense_width, counts.mlp_matrices)
    if moe:
        of_all = tensor if plan.expert == 1 else 1  # tensor ranks that see a token: experts are cut, or shared out
        product("router", moe, counts.router_weights * of_all, counts.experts, 1)
        product(
            "experts", moe, counts.expert_weights, counts.expert_width, counts.mlp_matrices, counts.experts_per_token
        )
        product("shared experts", moe, counts.shared_weights, counts.shared_width, counts.mlp_matrices)
    per_token = 10 * counts.hidden + 2 * counts.attention_width
    inside = dense * counts.dense_width + moe * (counts.experts_per_token * counts.expert_width + counts.shared_width)
    moved = word * tokens * (layers * per_token + 2 * inside) // tensor
    rows.append(Row("elementwise", Component.COMPUTE, 0, 3 * moved, kernels=36 * layers * micro_steps))
    return rows


def _repeated_weights(shape: ModelShape, counts: ShapeCounts, ranks: int) -> int:
    """Weights of one layer's attention that several tensor ranks have, once for each rank more."""
    if shape.latent is not None:
        return counts.whole_weights * (ranks - 1)
    return counts.hidden * counts.key_value_width * (max(1, ranks // shape.kv_heads) - 1)


def _attention_core(
    rows: list[Row],
    counts: ShapeCounts,
    layers: int,
    tokens: int,
    sequence: int,
    plan: ComputePlan,
    word: int,
    fused: bool,
) -> None:
    windowed = round(layers * counts.window_share)
    keys = (layers - windowed) * sequence + windowed * min(sequence, counts.window or sequence)
    keys = keys * (plan.context + 1)  # of context ranks a worker's queries see their own keys, and half of each other's
    scores = 2 * tokens * keys * counts.score_width // plan.tensor // (2 * plan.context)
    values = scores if fused else 2 * tokens * keys * counts.value_width // plan.tensor // (2 * plan.context)
    moved = word * layers * tokens * (counts.score_width + counts.value_width + counts.key_value_width) // plan.tensor
    launches = layers * plan.accumulation
    rows.append(Row("attention core forward", Component.COMPUTE, scores + values, moved, kernels=launches))
    backward = (3 if fused else 2) * scores + 2 * values
    rows.append(Row("attention core backward", Component.COMPUTE, backward, 2 * moved, kernels=2 * launches))


def _embedding_row(counts: ShapeCounts, tokens: int, word: int) -> Row:
    return Row("embedding", Component.COMPUTE, 0, 4 * word * tokens * counts.hidden, kernels=3)


def _adapter_rows(
    shape: ModelShape, adapters: Adapters, tokens: int, plan: ComputePlan, stage: int, own_layers: int, word: int
) -> list[Row]:
    """The thin products, and what the first layer spares of its own and theirs (in the row of the backward pass)."""
    flops = adapters.forward_flops(shape, tokens, own_layers, plan.tensor)
    moved = 3 * word * tokens * own_layers * adapters.width(shape) // plan.tensor
    launches = 4 * len(adapters.matrices(shape)) * own_layers * plan.accumulation
    spared = adapters.spared_flops(shape, tokens, plan.tensor) if stage == 0 else 0
    return [
        Row("adapters forward", Component.COMPUTE, flops, moved, kernels=launches),
        Row("adapters backward", Component.COMPUTE, 2 * flops - spared, 2 * moved, kernels=2 * launches),
    ]


def _head_rows(counts: ShapeCounts, tokens: int, plan: ComputePlan, word: int, products: int) -> list[Row]:
    flops = 2 * tokens * counts.head_weights // plan.tensor
    moved = (
        word * (counts.head_weights * plan.accumulation + tokens * counts.vocab) + 8 * tokens * counts.vocab
    ) // plan.tensor
    launches = 3 * plan.accumulation
    return [
        Row("logits forward", Component.COMPUTE, flops, moved, kernels=launches),
        Row("logits backward", Component.COMPUTE, products * flops, products * moved, kernels=products * launches),
    ]


def _recompute_rows(rows: list[Row], plan: ComputePlan, last_products: int) -> list[Row]:
    """Forward rows again.  A block's last product is not: torch stops once it has what the backward pass needs."""
    if plan.recompute == "none":
        return []
    if plan.recompute not in {"selective", "full"}:
        raise UsageError(f"{plan.recompute} is forecast for published runs and not counted.", where="recompute")
    forward = [row for row in rows if row.name.endswith(" forward") and not row.name.startswith("logits")]
    core = [row for row in forward if row.name.startswith("attention core")]
    again = [_recomputed("attention core recompute", core, 0)]
    if plan.recompute == "full":
        again.append(_recomputed("recompute", [row for row in forward if row not in core], last_products))
    return again


def _recomputed(name: str, rows: list[Row], without_flops: int) -> Row:
    return Row(
        name,
        Component.COMPUTE,
        sum(row.flops for row in rows) - without_flops,
        sum(row.bytes for row in rows),
        kernels=sum(row.kernels for row in rows),
    )


def _exchange_rows(
    shape: ModelShape, sequence: int, plan: ComputePlan, own_layers: int, word: int, trained: int
) -> list[Row]:
    """What the worker hands over, for an even share of the model: splits that datahall does not run itself."""
    share = plan.tensor * plan.pipeline
    parameters = shape.parameters() // share
    ranks, shards = plan.copies, plan.shards
    rows: list[Row] = []
    if ranks > 1:
        kind = "reduce_scatter" if plan.zero_stage else "all_reduce"
        rows.append(Row(kind, Component.TRANSFER, 0, GRADIENT_BYTES * (trained // share), messages=1))
    if plan.zero_stage == 3 and shards > 1:
        gathers = plan.accumulation * 2
        moved = gathers * word * parameters // shards
        rows.append(Row("all_gather", Component.TRANSFER, 0, moved, messages=gathers * own_layers))
    if plan.tensor > 1:
        tokens = plan.accumulation * plan.micro_batch * sequence // plan.context
        moved = 4 * own_layers * word * tokens * shape.hidden
        rows.append(Row("tensor exchange", Component.TRANSFER, 0, moved, messages=4 * own_layers * plan.accumulation))
    return rows


def _optimiser_row(trained: int, plan: ComputePlan, own_layers: int) -> Row:
    parameters = trained // (plan.tensor * plan.pipeline)
    shards = plan.shards if plan.zero_stage else 1
    return Row("optimiser", Component.OPTIMISER, 0, 7 * 4 * parameters // shards, kernels=10 * own_layers)
