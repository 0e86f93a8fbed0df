"""Really compressing what ranks exchange: codecs, a DDP communication hook, local updates.

Every codec keeps what it left out and adds it to the next exchange (error feedback).  The state of the codec is per
rank, is not in checkpoints, and starts anew when DDP rebuilds its buckets after the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as distributed

from datahall.base.errors import UsageError
from datahall.network.compress import SCALE_BLOCK, Codec, as_matrix, codec_of, is_low_rank, kept_entries
from datahall.network.plan import NetworkPlan

Tensor = torch.Tensor
Mean = torch.futures.Future[Tensor]
Shapes = Sequence[Sequence[int]]


def install(model: torch.nn.parallel.DistributedDataParallel, plan: NetworkPlan) -> None:
    """Make DDP exchange gradients as `plan` says; plain plans are left to DDP itself."""
    codec = codec_of(plan)
    if codec.name != "none":
        model.register_comm_hook(Exchange(codec), _hook)


class Exchange:
    """Forms the mean over ranks of fp32 buckets through a codec, with error feedback per bucket."""

    def __init__(self, codec: Codec, group: Any = None) -> None:
        if codec.name not in _STARTS:
            raise UsageError(f"there is no compression {codec.name!r}.", hint=f"Known: {', '.join(_STARTS)}.")
        self.codec = codec
        self.group = group
        self.residuals: dict[int, Tensor] = {}
        self.factors: dict[int, list[Tensor]] = {}

    @property
    def ranks(self) -> int:
        """Ranks of the group."""
        return distributed.get_world_size(self.group)

    def start(self, index: int, values: Tensor, shapes: Shapes) -> Mean:
        """Begin to form the mean of the flat fp32 bucket number `index`, whose tensors have these shapes."""
        return _STARTS[self.codec.name](self, index, values, shapes)

    def with_residual(self, index: int, values: Tensor) -> Tensor:
        """The values plus what this bucket's earlier exchanges left out; a new tensor."""
        left = self.residuals.get(index)
        return values.clone() if left is None or left.numel() != values.numel() else values + left


class LocalUpdates:
    """Local SGD and DiLoCo: every `local_steps` steps the ranks exchange how far their parameters moved.

    The model must not be wrapped in DDP.  Buffers (batch-norm statistics) stay local.
    """

    def __init__(self, parameters: Iterable[Tensor], plan: NetworkPlan, group: Any = None) -> None:
        self._parameters = list(parameters)
        self._plan = plan
        self._exchange = Exchange(codec_of(plan), group)
        self._anchor = self._flat()
        self.momentum = torch.zeros_like(self._anchor)

    def after_step(self, step: int) -> bool:
        """Call after optimiser step `step` (counted from 1); True when the ranks exchanged."""
        if step % self._plan.local_steps:
            return False
        self.exchange()
        return True

    def begin(self, momentum: Tensor) -> None:
        """Begin a period from the parameters as they are, with the outer momentum of an earlier one."""
        self._anchor = self._flat()
        self.momentum.copy_(momentum)

    @torch.no_grad()
    def exchange(self) -> None:
        """Move all ranks to the anchor minus the outer step; also the way to end a run whose last period is short."""
        moved = self._anchor - self._flat()
        mean = self._exchange.start(0, moved, [tuple(p.shape) for p in self._parameters]).wait()
        self.momentum.mul_(self._plan.outer_momentum).add_(mean)
        step = mean + self._plan.outer_momentum * self.momentum if self._plan.outer_momentum else mean
        self._anchor -= self._plan.outer_rate * step
        offset = 0
        for parameter in self._parameters:
            parameter.copy_(self._anchor[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()

    @torch.no_grad()
    def _flat(self) -> Tensor:
        return torch.cat([parameter.reshape(-1) for parameter in self._parameters])


def _hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations, and ours would be text
    return state.start(bucket.index(), bucket.buffer(), [tuple(p.shape) for p in bucket.parameters()])


def _start_none(exchange: Exchange, index: int, values: Tensor, shapes: Shapes) -> Mean:
    mean = values / exchange.ranks
    return _then(_all_reduce(mean, exchange.group), lambda: mean)


def _start_bf16(exchange: Exchange, index: int, values: Tensor, shapes: Shapes) -> Mean:
    short = (values / exchange.ranks).to(torch.bfloat16)
    return _then(_all_reduce(short, exchange.group), lambda: short.to(torch.float32))


def _start_int8(exchange: Exchange, index: int, values: Tensor, shapes: Shapes) -> Mean:
    wanted = exchange.with_residual(index, values)
    packed = pack_int8(wanted)
    exchange.residuals[index] = wanted - unpack_int8(packed, wanted.numel())
    work, gathered = _all_gather(packed, exchange)

    def mean() -> Tensor:
        return torch.stack([unpack_int8(piece, wanted.numel()) for piece in gathered]).mean(0)

    return _then(work, mean)


def pack_int8(values: Tensor) -> Tensor:
    """Blocks of entries as int8 with one fp32 scale each, as bytes: entries first, then scales."""
    blocks = math.ceil(values.numel() / SCALE_BLOCK)
    padded = torch.nn.functional.pad(values, (0, blocks * SCALE_BLOCK - values.numel())).view(blocks, SCALE_BLOCK)
    scales = padded.abs().amax(1).div_(127.0).clamp_(min=1e-30)
    entries = (padded / scales[:, None]).round_().to(torch.int8).view(-1)[: values.numel()]
    return torch.cat([entries.view(torch.uint8), scales.view(torch.uint8)])


def unpack_int8(packed: Tensor, elements: int) -> Tensor:
    """What `pack_int8` packed, as fp32."""
    blocks = math.ceil(elements / SCALE_BLOCK)
    scales = packed[elements:].clone().view(torch.float32)
    entries = packed[:elements].view(torch.int8).to(torch.float32)
    padded = torch.nn.functional.pad(entries, (0, blocks * SCALE_BLOCK - elements)).view(blocks, SCALE_BLOCK)
    return (padded * scales[:, None]).view(-1)[:elements]


def _start_top_k(exchange: Exchange, index: int, values: Tensor, shapes: Shapes) -> Mean:
    wanted = exchange.with_residual(index, values)
    kept = kept_entries(wanted.numel(), exchange.codec.kept_share)
    places = wanted.abs().topk(kept, sorted=False).indices
    packed = torch.cat([places.to(torch.int32).view(torch.uint8), wanted[places].view(torch.uint8)])
    wanted[places] = 0.0
    exchange.residuals[index] = wanted
    work, gathered = _all_gather(packed, exchange)

    def mean() -> Tensor:
        total = torch.zeros_like(values)
        for piece in gathered:
            entries = piece[4 * kept :].clone().view(torch.float32)
            total.index_add_(0, piece[: 4 * kept].clone().view(torch.int32).to(torch.int64), entries)
        return total.div_(exchange.ranks)

    return _then(work, mean)


def _start_powersgd(exchange: Exchange, index: int, values: Tensor, shapes: Shapes) -> Mean:
    """One power iteration from the last right factors (Vogels, Karimireddy and Jaggi 2019)."""
    rank = exchange.codec.rank
    wanted = exchange.with_residual(index, values)
    pieces = _pieces(wanted, shapes)
    whole = [piece for piece, shape in zip(pieces, shapes, strict=True) if not is_low_rank(shape, rank)]
    matrices = [piece for piece, shape in zip(pieces, shapes, strict=True) if is_low_rank(shape, rank)]
    right = _warm_factors(exchange, index, matrices, rank)
    left = [matrix @ factor for matrix, factor in zip(matrices, right, strict=True)]
    _mean_in_place(exchange, whole + left).wait()
    residual = wanted.clone()
    for piece, shape in zip(_pieces(residual, shapes), shapes, strict=True):
        if not is_low_rank(shape, rank):
            piece.zero_()
    left = [torch.linalg.qr(factor).Q for factor in left]
    right = [matrix.T @ base for matrix, base in zip(matrices, left, strict=True)]
    exchange.factors[index] = right

    def finish() -> Tensor:
        for matrix, base, factor in zip(matrices, left, right, strict=True):
            torch.mm(base, factor.T, out=matrix)
        low_rank = [p for p, shape in zip(_pieces(residual, shapes), shapes, strict=True) if is_low_rank(shape, rank)]
        for left_out, matrix in zip(low_rank, matrices, strict=True):
            left_out -= matrix
        exchange.residuals[index] = residual
        return wanted

    return _then_future(_mean_in_place(exchange, right), finish) if right else _done(finish())


def _pieces(flat: Tensor, shapes: Shapes) -> list[Tensor]:
    """Views of a flat bucket: matrices for tensors of two dimensions or more."""
    parts = flat.split([math.prod(shape) for shape in shapes])
    return [part.view(as_matrix(shape)) if len(shape) > 1 else part for part, shape in zip(parts, shapes, strict=True)]


def _mean_in_place(exchange: Exchange, tensors: list[Tensor]) -> Mean:
    """Replace tensors by their mean over ranks, with one collective; the future's value is the flat mean."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).div_(exchange.ranks)

    def give_back() -> Tensor:
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
        return flat

    return _then_future(_all_reduce(flat, exchange.group).get_future(), give_back)


def _warm_factors(exchange: Exchange, index: int, matrices: list[Tensor], rank: int) -> list[Tensor]:
    """The right factors of the last exchange, or the same random ones on every rank."""
    held = exchange.factors.get(index)
    shapes = [(matrix.shape[1], rank) for matrix in matrices]
    if held is not None and [tuple(factor.shape) for factor in held] == shapes:
        return held
    chance = torch.Generator().manual_seed(index)
    return [torch.linalg.qr(torch.randn(shape, generator=chance)).Q for shape in shapes]


def _all_reduce(values: Tensor, group: Any) -> Any:
    return distributed.all_reduce(values, group=group, async_op=True)


def _all_gather(packed: Tensor, exchange: Exchange) -> tuple[Any, list[Tensor]]:
    gathered = [torch.empty_like(packed) for _ in range(exchange.ranks)]
    return distributed.all_gather(gathered, packed, group=exchange.group, async_op=True), gathered


def _then(work: Any, finish: Callable[[], Tensor]) -> Mean:
    return _then_future(work.get_future(), finish)


def _then_future(before: Any, finish: Callable[[], Tensor]) -> Mean:
    future: Mean = before.then(lambda _: finish())
    return future


def _done(value: Tensor) -> Mean:
    future: Mean = torch.futures.Future()
    future.set_result(value)
    return future


_STARTS: dict[str, Callable[[Exchange, int, Tensor, Shapes], Mean]] = {
    "none": _start_none,
    "bf16": _start_bf16,
    "int8": _start_int8,
    "top-k": _start_top_k,
    "powersgd": _start_powersgd,
}
