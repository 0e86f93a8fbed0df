"""Tensors as bytes in memory, without a copy where the tensor lies in one piece on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from datahall.storage.faults import Unsafe

DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
        torch.bool, torch.complex64, torch.complex128,
    )
}  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    """The name in the manifest; Unsafe for a type that the store does not have."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise Unsafe(f"tensors of type {dtype} cannot be stored.")
    return name


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor's bytes can be used where they are."""
    return tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.layout is torch.strided


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def view_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, writable, without a copy."""
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    array: Any = flat.numpy()
    return memoryview(array).cast("B")


def as_plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its bytes can be used where they are, else a contiguous copy on the CPU."""
    return tensor.detach() if is_plain(tensor) else tensor.detach().cpu().contiguous()
