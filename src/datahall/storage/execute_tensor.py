"""Tensors as bytes in memory, without a copy where the tensor lies in one piece on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

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
    """The name in the manifest, of a type in DTYPES."""
    return str(dtype).removeprefix("torch.")


def check_storable(value: Any, name: str = "") -> None:
    """Unsafe, with its name, for the first tensor in `value` that the store cannot hold; other values are `plain`'s."""
    if isinstance(value, torch.Tensor):
        _check_tensor(value, name)
        return
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        pairs = list(cast("Mapping[Any, Any]", value).items())
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(cast("list[Any]", value)))
    for key, inner in pairs:
        inside = f"{name}.{key}" if name else str(key)
        if isinstance(value, tuple) and isinstance(inner, torch.Tensor):
            raise Unsafe("a tuple that holds tensors cannot be stored.", where=inside, hint="Make it a list.")
        check_storable(inner, inside)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor's bytes can be used where they are."""
    in_place = tensor.device.type == "cpu" and tensor.layout is torch.strided and tensor.is_contiguous()
    return in_place and not tensor.is_conj() and not tensor.is_neg()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor."""
    whole: Any = tensor
    return whole.to_local() if hasattr(whole, "to_local") else tensor


def view_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, writable, without a copy."""
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    array: Any = flat.numpy()
    return memoryview(array).cast("B")


def as_plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its bytes can be used where they are, else a contiguous copy on the CPU."""
    if is_plain(tensor):
        return tensor.detach()
    return tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()


def _check_tensor(tensor: torch.Tensor, name: str) -> None:
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized:
        kind = "nested" if tensor.is_nested else "quantised" if tensor.is_quantized else "sparse"
        raise Unsafe(
            f"a {kind} tensor cannot be stored.", where=name, hint="Store its parts, or what it is as a dense tensor."
        )
    if tensor.device.type == "meta":
        raise Unsafe(
            "the tensor lies on the meta device and has no values.", where=name, hint="Give it memory (`to_empty`)."
        )
    if dtype_name(tensor.dtype) not in DTYPES:
        raise Unsafe(
            f"tensors of type {tensor.dtype} cannot be stored.",
            where=name,
            hint="Convert it, or store its bytes (`.view(torch.uint8)`).",
        )
