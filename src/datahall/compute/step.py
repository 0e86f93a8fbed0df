"""The step table of a compute plan: every row's exact FLOPs, bytes and kernels on one worker.

Counted as torch's FlopCounterMode counts: a product of m x k with k x n is 2 m n k; the attention core is counted in
full (not halved for causality), two products forward and five backward, because the fused kernel recomputes the scores,
and values as wide as queries, since narrower ones are filled up for it; of context ranks a worker's own tokens in full,
and half of the others' (which are the ones that it looks at).
Bytes are memory traffic of an ideal kernel that reads each operand once; no seconds here.
"""

from __future__ import annotations

from dataclasses import dataclass

from datahall.base.errors import UsageError
from datahall.base.step_table import Component, Row, StepTable
from datahall.case.model import ModelShape
from datahall.compute.adapters import ALL, Adapters, trained_parameters
from datahall.compute.counts import ShapeCounts
from datahall.compute.handed import GRADIENT_BYTES, countable, handed_over
from datahall.compute.layout import held_layers
from datahall.compute.plan import ComputePlan

_BYTES = {"fp32": 4, "tf32": 4}


@dataclass(frozen=True, slots=True)
class _Work:
    """What one worker does in a step: its layers (`moe` of them mixtures) and tokens, bytes of an element.

    `products` is matrix products backward for each forward (1 where weights are frozen).
    """

    counts: ShapeCounts
    plan: ComputePlan
    layers: int
    moe: int
    tokens: int
    sequence: int
    word: int
    products: int

    @property
    def dense(self) -> int:
        """Layers that are no mixtures."""
        return self.layers - self.moe


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
    last = plan.pipeline - 1
    stage = last if stage is None else stage
    work = _work(shape, sequence, plan, stage, frozen=adapters is not None)
    rows = _layer_rows(work, _repeated_weights(shape, work.counts, plan.tensor), fused_attention)
    if stage == 0:
        rows.append(_embedding_row(work))
    if stage == last:
        rows += _head_rows(work)
    if adapters is not None:
        rows += _adapter_rows(work, shape, adapters, stage)
    rows += _recompute_rows(rows, plan, 2 * work.tokens * work.dense * _last_weights(work.counts, plan, adapters))
    trained = trained_parameters(shape, adapters)
    if countable(shape, plan):
        handed = handed_over(shape, sequence, plan, stage, adapters)
        rows += [Row(kind, Component.TRANSFER, 0, size, messages=calls) for kind, (calls, size) in handed.items()]
    else:
        rows += _exchange_rows(work, shape, trained)
    rows.append(_optimiser_row(trained, plan, work.layers))
    return StepTable(tuple(row for row in rows if row.flops or row.bytes))


def _work(shape: ModelShape, sequence: int, plan: ComputePlan, stage: int, *, frozen: bool) -> _Work:
    counts = ShapeCounts.of(shape)
    own = held_layers(counts.layers, plan, stage)
    dense_first = counts.layers - counts.moe_layers
    return _Work(
        counts=counts,
        plan=plan,
        layers=len(own),
        moe=sum(1 for layer in own if layer >= dense_first),
        tokens=plan.accumulation * plan.micro_batch * sequence // plan.context,
        sequence=sequence,
        word=_BYTES.get(plan.precision, 2),
        products=1 if frozen else 2,
    )


def _layer_rows(work: _Work, repeated: int, fused: bool) -> list[Row]:
    """Rows of the layers; `repeated` weights of attention are those that several tensor ranks have."""
    counts, layers, moe = work.counts, work.layers, work.moe
    matrices = counts.mlp_matrices
    rows = [
        *_product_rows(
            work, "attention projections", layers, counts.attention_weights + repeated, counts.attention_width, 4
        ),
        *_attention_core(work, fused),
        *_product_rows(work, "mlp", work.dense, counts.dense_weights, counts.dense_width, matrices),
    ]
    if moe:
        of_all = work.plan.tensor if work.plan.expert == 1 else 1  # ranks that see a token: experts are cut, or dealt
        chosen = counts.experts_per_token
        rows += _product_rows(work, "router", moe, counts.router_weights * of_all, counts.experts, 1)
        rows += _product_rows(work, "experts", moe, counts.expert_weights, counts.expert_width, matrices, chosen)
        rows += _product_rows(work, "shared experts", moe, counts.shared_weights, counts.shared_width, matrices)
    rows.append(_elementwise_row(work))
    return rows


def _product_rows(
    work: _Work, name: str, layers: int, weights: int, width: int, kernels: int, share: int = 1
) -> list[Row]:
    """Forward and backward of `layers` times `kernels` products; each token meets `share` matrices of `weights`."""
    flops = 2 * work.tokens * weights * share * layers // work.plan.tensor
    operands = weights * work.plan.accumulation + work.tokens * (2 * work.counts.hidden + width) * share
    moved = work.word * layers * operands // work.plan.tensor
    launches = kernels * layers * work.plan.accumulation
    return _both_ways(name, work.products, flops, moved, launches)


def _both_ways(name: str, products: int, flops: int, moved: int, launches: int) -> list[Row]:
    """A row forward, and one backward with `products` times as much."""
    return [
        Row(f"{name} forward", Component.COMPUTE, flops, moved, kernels=launches),
        Row(f"{name} backward", Component.COMPUTE, products * flops, products * moved, kernels=products * launches),
    ]


def _elementwise_row(work: _Work) -> Row:
    """Norms, residuals, rotary and activation functions: forward, and twice as much backward."""
    counts = work.counts
    per_token = 10 * counts.hidden + 2 * counts.attention_width
    mixture = counts.experts_per_token * counts.expert_width + counts.shared_width
    inside = work.dense * counts.dense_width + work.moe * mixture
    moved = work.word * work.tokens * (work.layers * per_token + 2 * inside) // work.plan.tensor
    launches = 36 * work.layers * work.plan.accumulation
    return Row("elementwise", Component.COMPUTE, 0, 3 * moved, kernels=launches)


def _repeated_weights(shape: ModelShape, counts: ShapeCounts, ranks: int) -> int:
    """Weights of one layer's attention that several tensor ranks have, once for each rank more."""
    if shape.latent is not None:
        return counts.whole_weights * (ranks - 1)
    return counts.hidden * counts.key_value_width * (max(1, ranks // shape.kv_heads) - 1)


def _last_weights(counts: ShapeCounts, plan: ComputePlan, adapters: Adapters | None) -> int:
    """Weights of a dense layer's last product, on one tensor rank."""
    if adapters is not None and adapters.targets == ALL:
        return adapters.rank * counts.hidden
    return counts.dense_weights // counts.mlp_matrices // plan.tensor


def _attention_core(work: _Work, fused: bool) -> list[Row]:
    counts, plan, sequence = work.counts, work.plan, work.sequence
    keys = round(work.layers * float(counts.keys(sequence)))
    keys = keys * (plan.context + 1)  # of context ranks a worker's queries see their own keys, and half of each other's
    scores = 2 * work.tokens * keys * counts.score_width // plan.tensor // (2 * plan.context)
    values = scores if fused else 2 * work.tokens * keys * counts.value_width // plan.tensor // (2 * plan.context)
    widths = counts.score_width + counts.value_width + counts.key_value_width
    moved = work.word * work.layers * work.tokens * widths // plan.tensor
    launches = work.layers * plan.accumulation
    backward = (3 if fused else 2) * scores + 2 * values
    return [
        Row("attention core forward", Component.COMPUTE, scores + values, moved, kernels=launches),
        Row("attention core backward", Component.COMPUTE, backward, 2 * moved, kernels=2 * launches),
    ]


def _embedding_row(work: _Work) -> Row:
    return Row("embedding", Component.COMPUTE, 0, 4 * work.word * work.tokens * work.counts.hidden, kernels=3)


def _adapter_rows(work: _Work, shape: ModelShape, adapters: Adapters, stage: int) -> list[Row]:
    """The thin products, and what the first layer spares of its own and theirs (in the row of the backward pass)."""
    tokens, tensor = work.tokens, work.plan.tensor
    flops = adapters.forward_flops(shape, tokens, work.layers, tensor)
    moved = 3 * work.word * tokens * work.layers * adapters.width(shape) // tensor
    launches = 4 * len(adapters.matrices(shape)) * work.layers * work.plan.accumulation
    spared = adapters.spared_flops(shape, tokens, tensor) if stage == 0 else 0
    return [
        Row("adapters forward", Component.COMPUTE, flops, moved, kernels=launches),
        Row("adapters backward", Component.COMPUTE, 2 * flops - spared, 2 * moved, kernels=2 * launches),
    ]


def _head_rows(work: _Work) -> list[Row]:
    counts, plan, tokens = work.counts, work.plan, work.tokens
    flops = 2 * tokens * counts.head_weights // plan.tensor
    operands = counts.head_weights * plan.accumulation + tokens * counts.vocab
    moved = (work.word * operands + 8 * tokens * counts.vocab) // plan.tensor
    return _both_ways("logits", work.products, flops, moved, 3 * plan.accumulation)


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


def _exchange_rows(work: _Work, shape: ModelShape, trained: int) -> list[Row]:
    """What the worker hands over, for an even share of the model: splits that datahall does not run itself."""
    plan = work.plan
    share = plan.tensor * plan.pipeline
    rows: list[Row] = []
    if plan.copies > 1:
        kind = "reduce_scatter" if plan.zero_stage else "all_reduce"
        rows.append(Row(kind, Component.TRANSFER, 0, GRADIENT_BYTES * (trained // share), messages=1))
    if plan.zero_stage == 3 and plan.shards > 1:
        gathers = plan.accumulation * 2
        moved = gathers * work.word * (shape.parameters() // share) // plan.shards
        rows.append(Row("all_gather", Component.TRANSFER, 0, moved, messages=gathers * work.layers))
    if plan.tensor > 1:
        moved = 4 * work.layers * work.word * work.tokens * shape.hidden
        rows.append(Row("tensor exchange", Component.TRANSFER, 0, moved, messages=4 * work.layers * plan.accumulation))
    return rows


def _optimiser_row(trained: int, plan: ComputePlan, own_layers: int) -> Row:
    parameters = trained // (plan.tensor * plan.pipeline)
    shards = plan.shards if plan.zero_stage else 1
    return Row("optimiser", Component.OPTIMISER, 0, 7 * 4 * parameters // shards, kernels=10 * own_layers)
