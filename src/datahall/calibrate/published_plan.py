"""How a published run was split: degrees, sharding, micro-batches, recomputation, with what it leaves open.

What a row does not state becomes several `Variant`s with a weight each, so that it is averaged over and widens the
interval.  A plan that cannot be is refused with its reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from datahall.base.errors import Impossible, UnknownName
from datahall.calibrate.published_shape import Cells
from datahall.case.model import ModelShape
from datahall.compute.plan import ComputePlan
from datahall.virtual.links import LinkRates
from datahall.virtual.traits import StackTraits, recompute_of

_ZERO_STAGE = r"(?:\bz(?:ero)?|zero|\bstage)[-_ (:=]*(?:stage)?[-_ :=]*([0-3])(?!\d)"
_GROUP = r"(?:within|\bdp[-_ ]?shard)\W{0,3}(\d+)"  # torchtitan's degree is of ranks that share one copy
_UNSHARDED = r"(?:no|not|non|without)[-_ ]+(?:zero|[fh]sdp|shard\w*)|unsharded"
_MEANT_SHARDED = (  # what says so of itself; other words ("ddp", "data parallel") are copies
    r"\bzero(?!.?bubble)|sdp\d?\b|\bmics\b|\bshard(?:ed|ing)?\W+(?:dp|data|opt|grad|param|weight|state)"
    r"|(?:optim\w*|grad\w*|param\w*|weights?|states?)\W+(?:are )?shard"
)
Stack = tuple[StackTraits, float]
_MOST_TOKENS = 1e9  # of one step: several times the largest batch that anybody trains with


@dataclass(frozen=True, slots=True)
class Variant:
    """One reading of a row: a plan with its recomputation under a stack of these traits, as likely as `weight`."""

    plan: ComputePlan
    weight: float
    traits: StackTraits


def variants_of(
    cells: Cells, shape: ModelShape, devices: int, precision: str, stacks: Sequence[Stack], figures: LinkRates
) -> tuple[Variant, ...]:
    """The readings of a row's plan, under each stack that it may be of; Impossible where it states one that cannot be.

    `stacks` are traits with weights.
    """
    return tuple(
        replace(variant, weight=variant.weight * weight)
        for traits, weight in stacks
        for variant in _under(cells, shape, devices, precision, traits, figures)
    )


def _under(
    cells: Cells, shape: ModelShape, devices: int, precision: str, traits: StackTraits, figures: LinkRates
) -> tuple[Variant, ...]:
    """The readings under a stack of these traits."""
    degrees = _degrees(cells, shape, devices, traits)
    zero, shard_group = _sharding(cells, figures, degrees["tensor"])
    data, pipeline = degrees["data"], degrees["pipeline"]
    known = ComputePlan(
        **degrees,
        zero_stage=zero,
        shard_group=shard_group,
        precision=precision,
        schedule="dualpipe" if "dualpipe" in cells.text("framework").lower() else "1f1b",
        sequence_parallel=traits.sequence_parallel or "sequence" in cells.text("recompute"),
    )
    chunks = _chunks(cells.text("vp"), shape.layers, pipeline, traits)
    return tuple(
        Variant(
            replace(known, virtual_stages=chunk, micro_batch=micro, accumulation=accumulation, recompute=recompute),
            batch_weight * weight * chunk_weight,
            traits,
        )
        for micro, accumulation, batch_weight in _batches(cells, data, pipeline, traits)
        for recompute, weight in recompute_of(cells.text("recompute"), traits, shape.experts > 0)
        for chunk, chunk_weight in chunks
    )


def _degrees(cells: Cells, shape: ModelShape, devices: int, traits: StackTraits) -> dict[str, Any]:
    """Data, tensor, pipeline, context and expert ranks, which must fill the devices and suit the model."""
    tensor, pipeline = cells.count("tp"), cells.count("pp")
    context, expert = cells.count("cp"), cells.count("ep")
    if pipeline > shape.layers:
        raise Impossible(f"{pipeline} pipeline stages for {shape.layers} layers.")
    if tensor > shape.heads and traits.issue != "xla":
        raise Impossible(f"{tensor} tensor ranks for {shape.heads} heads.")
    if expert > 1 and not shape.experts:
        raise Impossible(f"{expert} expert ranks for a model without experts.")
    if shape.experts and (expert > shape.experts or shape.experts % expert):
        raise Impossible(f"{expert} expert ranks for {shape.experts} experts.")
    inner = tensor * pipeline * context
    data = devices // inner
    if data * inner != devices:
        raise Impossible(f"{tensor} x {pipeline} x {context} ranks do not divide {devices} devices.")
    _check_data(cells, data, expert, f"{tensor} x {pipeline} x {context} ranks", devices)
    expert = min(expert, data * context * tensor)
    return {"data": data, "tensor": tensor, "pipeline": pipeline, "context": context, "expert": expert}


def _check_data(cells: Cells, data: int, expert: int, others: str, devices: int) -> None:
    """Refuse a stated `dp` that is not the data-parallel ranks which the devices leave.

    It may leave out those that spread experts, or count copies where a row says that each is sharded over several
    ranks ("2 pods of FSDP"; one copy where it is sharded over all).
    """
    stated, sharding = cells.count("dp", data), cells.text("sharding").lower()
    copies = re.search(r"2d|hsdp|hybrid|replica|\bpods?\b|slice|within|in node", sharding)
    sharded = copies or (stated == 1 and re.search(r"fsdp|full.?shard|zero\D{0,7}3", sharding))
    if stated != data and stated * expert != data and not (sharded and data % stated == 0):
        raise Impossible(f"dp {stated} with {others} does not fill {devices} devices, which leave {data} for it.")


def _sharding(cells: Cells, figures: LinkRates, tensor: int) -> tuple[int, int]:
    """The ZeRO stage and the devices that share one copy (0: all of them), which the framework may name instead.

    UnknownName where a row means a sharding that is none of those known.
    """
    stated = cells.text("sharding")
    low = (stated or cells.text("framework")).lower()
    if re.fullmatch(_UNSHARDED, low):
        return 0, 0
    if "2d" in low or "within slice" in low:
        return 3, max(1, figures.domain // tensor)
    if "in node" in low:
        return 3, 8
    within = re.search(_GROUP, low)
    group = int(within[1]) if within else 0
    stage = re.search(_ZERO_STAGE, low)
    if re.search(r"hsdp|hybrid[-_ ]?shard", low):
        return 3, max(1, figures.domain // tensor)
    if (stage and stage[1] == "2") or re.search(r"no reshard|shard[-_ ]?grad[-_ ]?op", low):
        return 2, group
    if (stage and stage[1] == "1") or re.search(r"dist(?:ributed)?[-_ ]?opt", low):
        return 1, group
    if (stage and stage[1] == "3") or re.search(r"fsdp|fully?[-_ ]?shard|\bdp[-_ ]?shard", low):
        return 3, group
    if stated and re.search(_MEANT_SHARDED, low) and not (stage and stage[1] == "0"):
        raise UnknownName(f'sharding is "{stated}", which is none of ZeRO-0 to ZeRO-3, FSDP, HSDP and "none".')
    return 0, 0


def _batches(cells: Cells, data: int, pipeline: int, traits: StackTraits) -> list[tuple[int, int, float]]:
    """Micro-batch, accumulation and weight; several where a row leaves them open."""
    micro, whole_batch = cells.number("micro_batch"), cells.number("global_batch")
    if whole_batch and whole_batch < data:
        raise Impossible(f"a batch of {whole_batch:.0f} sequences cannot be spread over {data} data-parallel ranks.")
    if whole_batch and whole_batch * (cells.number("seq_len") or 1) > _MOST_TOKENS:
        raise Impossible("its batch is impossible as a number of sequences; it may be one of tokens.")
    if micro and whole_batch:
        local = max(1, round(whole_batch / data))
        if traits.issue == "xla" and pipeline == 1:  # a batch per device, gathered over the tensor ranks
            return [(local, 1, 1.0)]
        if pipeline > 1 and traits.local_batch_in_pipeline and micro >= local:
            sizes = [size for size in (1, 2, 4) if size <= max(1, local // pipeline)]
            return [(size, max(1, local // size), 1 / len(sizes)) for size in sizes]
        if micro > local:
            raise Impossible(f"micro-batches of {micro:.0f} sequences where each data-parallel rank has {local}.")
        size = max(1, int(micro))
        return [(size, max(1, round(local / max(micro, 1))), 1.0)]
    if whole_batch:
        local = max(1, round(whole_batch / data))
        sizes = [size for size in (1, 2, 4) if size * pipeline <= local] or [1]
        if pipeline == 1:
            sizes = [local]
        return [(size, max(1, round(local / size)), 1 / len(sizes)) for size in sizes]
    if micro:
        return [(max(1, int(micro)), 1 if pipeline == 1 else 4 * pipeline, 1.0)]
    return [(size, 1 if pipeline == 1 else 4 * pipeline, 1 / 3) for size in (2, 4, 8)]


def _chunks(text: str, layers: int, pipeline: int, traits: StackTraits) -> list[tuple[int, float]]:
    """Virtual stages and their weights: stated, or one and a few where interleaving may have been on."""
    if pipeline == 1:
        return [(1, 1.0)]
    most = max(1, layers // pipeline)
    try:
        stated = int(float(text))
    except (ValueError, OverflowError):
        stated = 0
    if stated > 0:
        return [(max(1, min(stated, math.ceil(layers / pipeline))), 1.0)]
    if "interleav" in text.lower():  # without a number
        options = [count for count in (2, 4) if count <= most] or [1]
        return [(count, 1 / len(options)) for count in options]
    if most == 1 or not traits.interleaves:
        return [(1, 1.0)]
    return [(1, 0.4), (2, 0.3), (min(5, most), 0.3)]
