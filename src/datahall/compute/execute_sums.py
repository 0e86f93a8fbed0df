"""Sums of gradients over workers once a step, several in one message; nothing is hidden behind arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn import functional

from datahall.compute.inventory import share_count


def sum_in_buckets(gradients: Sequence[torch.Tensor], bucket_bytes: int, group: dist.ProcessGroup) -> None:
    """Replace gradients by their sums over `group`, some at once."""
    bucket: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        count = gradient.numel() * gradient.element_size()
        if bucket and size + count > bucket_bytes:
            _sum(bucket, group)
            bucket, size = [], 0
        bucket.append(gradient)
        size += count
    if bucket:
        _sum(bucket, group)


def sum_evenly(parts: Sequence[torch.Tensor], counts: Sequence[int], group: dist.ProcessGroup) -> None:
    """Replace `parts` by their sums over `group`, handing over so many elements of each, zeros beyond its own."""
    padded = [
        functional.pad(part.reshape(-1), (0, count - part.numel())) for part, count in zip(parts, counts, strict=True)
    ]
    _sum(padded, group)
    for part, summed in zip(parts, padded, strict=True):
        part.copy_(summed[: part.numel()].view_as(part))


def largest_share(parameter: torch.Tensor) -> int:
    """Elements of the largest share that ZeRO spreads a parameter in: of the parameter, where it does not."""
    ranks = parameter.device_mesh.size(-1) if isinstance(parameter, DTensor) else 1
    return share_count(tuple(parameter.shape), ranks)


def in_one_message(tensors: Sequence[torch.Tensor], collective: Callable[[torch.Tensor], object]) -> None:
    """Do a collective, which works in place, with all elements of tensors of one type at once."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    collective(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def _sum(bucket: Sequence[torch.Tensor], group: dist.ProcessGroup) -> None:
    in_one_message(bucket, lambda flat: dist.all_reduce(flat, group=group))
