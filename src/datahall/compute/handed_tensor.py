"""What tensor ranks exchange: calls and exact bytes of one worker and step, from the modules that are cut.

The modules of a model or of a pipeline stage are values here, whoever found them: formulas (`language_model_cuts`) or a
look at the built model (`execute_anatomy`).  No seconds here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from datahall.case.model import ModelShape
from datahall.compute.adapters import Adapters
from datahall.compute.inventory import Shape, around_experts, latent_down, routed_experts, share_count
from datahall.compute.plan import ComputePlan

Handed = tuple[int, int]  # calls, bytes


@dataclass(frozen=True, slots=True)
class TensorCuts:
    """What tensor ranks exchange for one sample of a micro-batch: elements of each call, whole tensors.

    `forward` are outputs of row-cut products, `tables` outputs of cut tables, `entered` inputs of cut products that
    every rank needs whole, `backward` those of them whose gradients are summed, `taught` the tables' outputs that have
    gradients, `gathered` outputs that are put together again.  Of those inside blocks, `forward_again` and
    `entered_again` are exchanged again where blocks are recomputed.
    `shared` are the shapes of what is trained and a rank uses on its share of the sequence only, `copied` of what each
    rank has whole and uses with its piece of the model or of the tokens, `routed` those of experts among these, which
    other expert ranks do not hold.  `apart` are streams of which each rank takes its own tokens.  Of models without
    formulas also how many parameters are divided among the ranks (`cut_parameters`), in so many `modules`.
    """

    forward: tuple[int, ...] = ()
    tables: tuple[int, ...] = ()
    entered: tuple[int, ...] = ()
    backward: tuple[int, ...] = ()
    taught: tuple[int, ...] = ()
    gathered: tuple[int, ...] = ()
    apart: tuple[int, ...] = ()
    forward_again: tuple[int, ...] = ()
    entered_again: tuple[int, ...] = ()
    shared: tuple[Shape, ...] = ()
    routed: tuple[Shape, ...] = ()
    copied: tuple[Shape, ...] = ()
    cut_parameters: int = 0
    modules: int = 0


def together(parts: Sequence[TensorCuts]) -> TensorCuts:
    """The cuts of several parts of a model as those of one."""
    calls = {name: tuple(one for part in parts for one in getattr(part, name)) for name in _CALLS}
    parameters, modules = sum(part.cut_parameters for part in parts), sum(part.modules for part in parts)
    return TensorCuts(**calls, cut_parameters=parameters, modules=modules)


def language_model_cuts(
    shape: ModelShape,
    sequence: int,
    own: range,
    plan: ComputePlan,
    adapters: Adapters | None = None,
    *,
    first: bool,
    last: bool,
) -> TensorCuts:
    """The cuts of its `own` layers of our language model, with its table if `first` and its head if `last`.

    Whatever its heads and its MLP are, a layer has one sum behind each of the two; but a mixture whose experts are
    shared out works on each rank's own tokens.  With `adapters` the rest is frozen: what enters the first layer has no
    gradient.
    """
    stream, layers = sequence * shape.hidden, len(own)
    mixtures = sum(layer >= shape.layers - shape.moe_layers for layer in own)
    apart = mixtures if plan.expert > 1 else 0
    sums = 2 * layers - apart
    ends: tuple[int, ...] = (stream,) if last else ()
    tables: tuple[int, ...] = (stream,) if first else ()
    entered = (stream,) * sums + ends
    once = layers * _used_by_heads(shape, plan.tensor) + (mixtures - apart) * ((shape.experts, shape.hidden),)
    once += apart * around_experts(shape)
    return TensorCuts(
        forward=(stream,) * sums,
        tables=tables,
        entered=entered,
        backward=entered if adapters is None else entered[1 if first else 0 :],
        taught=tables if adapters is None else (),
        gathered=(sequence * shape.vocab,) if last else (),
        forward_again=(stream,) * layers,
        entered_again=(stream,) * sums,
        apart=(stream,) * apart,
        shared=((shape.hidden,),) * (2 * layers + last) if adapters is None else (),
        routed=apart * routed_experts(shape, plan) if adapters is None else (),
        copied=once if adapters is None else layers * adapters.on_rank(shape, plan.tensor).summed,
    )


def tensor_handed(cuts: TensorCuts, plan: ComputePlan) -> dict[str, Handed]:
    """What one tensor rank hands over in a step.

    Whole streams are summed: outputs of row-cut products and of tables forward, gradients of whole inputs backward.
    With sequence parallelism each of these sums is scattered along the sequence, and gathered again where it is needed
    whole; gradients of parameters that are used on a share of the sequence are summed once a step, as are always those
    of parameters that several ranks have and use with pieces of their own.  Products are in the plan's precision, what
    norms and tables make in 32 bits, unless they are gathered in the plan's precision as well (ZeRO stages 2 and 3).
    """
    spread, again = plan.zero_stage >= 2 and plan.copies > 1, plan.recompute == "full"
    narrow = word_bytes(plan)
    wide = narrow if spread else 4
    inputs = _times(cuts.backward, plan)
    rows = _times(cuts.forward, plan, cuts.forward_again if again else ())
    summed = [_sized(rows, narrow), _sized(_times(cuts.tables, plan), wide), _sized(inputs, wide)]
    gathered = [_sized(_times(cuts.gathered, plan), narrow, plan.tensor)]
    once = (*cuts.copied, *(cuts.shared if plan.sequence_parallel else ()))
    shards, alike = (plan.shards, max(1, plan.shards // plan.expert)) if spread else (1, 1)
    own = sum(share_count(shape, alike) for shape in cuts.routed)
    shared = (1 if once else 0, 4 * (own + sum(share_count(shape, shards) for shape in once)))
    if not plan.sequence_parallel:
        apart = _times(cuts.apart, plan)
        gathered += [_sized(apart, narrow, plan.tensor), _sized(apart, wide, plan.tensor)]  # forward and backward
        return _kinds({"all_reduce": [*summed, shared], "all_gather": gathered})
    entered = _times(cuts.entered, plan, cuts.entered_again if again else ())
    gathered += [
        _sized(_times(cuts.forward, plan), narrow, plan.tensor),
        _sized(_times(cuts.taught, plan), wide, plan.tensor),
        _sized(entered, wide, plan.tensor),
    ]
    return _kinds({"reduce_scatter": summed, "all_gather": gathered, "all_reduce": [shared]})


def word_bytes(plan: ComputePlan) -> int:
    """Bytes of a number that products give."""
    return 4 if plan.precision in ("fp32", "tf32") else 2


_CALLS = tuple(field.name for field in fields(TensorCuts) if field.name not in ("cut_parameters", "modules"))


def _used_by_heads(shape: ModelShape, ranks: int) -> tuple[Shape, ...]:
    """What each rank has whole of a layer's attention and uses for its heads: down to latents, or too few keys."""
    if shape.latent is not None:
        return latent_down(shape, shape.latent)
    kept = shape.kv_heads * shape.head_dim
    one: tuple[Shape, ...] = ((kept, shape.hidden), (kept,)) if shape.attention_bias else ((kept, shape.hidden),)
    return 2 * one if ranks > shape.kv_heads else ()


def _times(once: Sequence[int], plan: ComputePlan, again: Sequence[int] = ()) -> Handed:
    """Calls and elements of a step, of the calls for one sample of a micro-batch."""
    calls = (*once, *again)
    return plan.accumulation * len(calls), plan.accumulation * plan.micro_batch * sum(calls)


def _sized(called: Handed, width: int, ranks: int = 1) -> Handed:
    """In bytes; of tensors that are gathered, this rank's part."""
    return called[0], width * called[1] // ranks


def _kinds(found: dict[str, list[Handed]]) -> dict[str, Handed]:
    added = {kind: (sum(calls for calls, _ in parts), sum(size for _, size in parts)) for kind, parts in found.items()}
    return {kind: handed for kind, handed in added.items() if handed[0]}
