"""Codecs for what data-parallel ranks exchange: which collectives they call, with exactly how many bytes.

Pure counting; `execute_compress` does it.  All-gathers grow with the number of ranks where an all-reduce does not, and
what a codec does to the loss is not known here: it is measured (`steps_factor` in `choose`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from datahall.base.errors import UsageError
from datahall.network.plan import NetworkPlan

NAMES = ("none", "bf16", "int8", "top-k", "powersgd")
SCALE_BLOCK = 1024  # int8: entries that share one fp32 scale
Shape = Sequence[int]


@dataclass(frozen=True, slots=True)
class Call:
    """One collective call of one rank: its `kind` (all-reduce, all-gather, broadcast) and the `bytes` it hands over."""

    kind: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Codec:
    """A compression with its knobs: `rank` of PowerSGD, `kept_share` of top-k."""

    name: str = "none"
    rank: int = 4
    kept_share: float = 0.01


def codec_of(plan: NetworkPlan) -> Codec:
    """The codec that a plan names.  UsageError if there is none of that name, or its knob makes no sense."""
    if plan.compression not in NAMES:
        what = f"there is no compression {plan.compression!r}."
        raise UsageError(what, where="network.compression", hint=f"Known: {', '.join(NAMES)}.")
    if plan.compression == "top-k" and not 0 < plan.kept_share <= 1:
        raise UsageError(f"top-k cannot keep a share of {plan.kept_share}.", where="network.kept_share")
    if plan.compression == "powersgd" and plan.compression_rank < 1:
        raise UsageError(f"PowerSGD has no rank {plan.compression_rank}.", where="network.compression_rank")
    return Codec(plan.compression, plan.compression_rank, plan.kept_share)


def calls(codec: Codec, shapes: Sequence[Shape]) -> tuple[Call, ...]:
    """The collective calls for one bucket of fp32 tensors with these shapes, in order."""
    elements = sum(math.prod(shape) for shape in shapes)
    if codec.name == "none":
        return (Call("all-reduce", 4 * elements),)
    if codec.name == "bf16":
        return (Call("all-reduce", 2 * elements),)
    if codec.name == "int8":
        return (Call("all-gather", elements + 4 * math.ceil(elements / SCALE_BLOCK)),)
    if codec.name == "top-k":
        return (Call("all-gather", 8 * kept_entries(elements, codec.kept_share)),)
    if codec.name == "powersgd":
        return _powersgd_calls(codec.rank, shapes)
    raise UsageError(f"there is no compression {codec.name!r}.", hint=f"Known: {', '.join(NAMES)}.")


def handed_bytes(codec: Codec, shapes: Sequence[Shape]) -> int:
    """Bytes that one rank hands to collectives for one bucket."""
    return sum(call.bytes for call in calls(codec, shapes))


def sent_bytes(codec: Codec, shapes: Sequence[Shape], ranks: int) -> int:
    """Bytes that one rank sends when the library reduces in a ring and gathers in a ring (gloo's way, up to rounding).

    Which way the library takes is decided by the library; interface counters are the judge.
    """
    reduced = sum(call.bytes for call in calls(codec, shapes) if call.kind == "all-reduce")
    gathered = sum(call.bytes for call in calls(codec, shapes) if call.kind == "all-gather")
    return round(2 * (ranks - 1) * reduced / ranks) + (ranks - 1) * gathered


def kept_entries(elements: int, share: float) -> int:
    """How many entries top-k keeps of so many: at least one."""
    return max(1, math.ceil(elements * share))


def as_matrix(shape: Shape) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix: the first dimension, and all others together."""
    return shape[0], math.prod(shape[1:])


def is_low_rank(shape: Shape, rank: int) -> bool:
    """Whether PowerSGD's two factors are smaller than the tensor itself."""
    if len(shape) < 2:
        return False
    rows, columns = as_matrix(shape)
    return (rows + columns) * rank < rows * columns


def _powersgd_calls(rank: int, shapes: Sequence[Shape]) -> tuple[Call, ...]:
    """First the left factors together with whatever is too small to factor, then the right factors."""
    factored = [as_matrix(shape) for shape in shapes if is_low_rank(shape, rank)]
    whole = sum(math.prod(shape) for shape in shapes if not is_low_rank(shape, rank))
    first = Call("all-reduce", 4 * (whole + rank * sum(rows for rows, _ in factored)))
    if not factored:
        return (first,)
    return (first, Call("all-reduce", 4 * rank * sum(columns for _, columns in factored)))
