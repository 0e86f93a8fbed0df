"""Activations that do not fit in memory wait in a folder between forward and backward.

    with Offload(folder, limit_bytes=1 << 30) as offload:
        loss = model(batch)
    loss.backward()

The first `limit_bytes` that autograd saves stay in memory, later ones go to files and come back when backward needs
them.  Backward wants the last ones first, so this keeps the wrong end: it is for what does not fit at all.  Where
recomputing is faster than the disk (most layers but attention on long sequences), recompute instead.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from datahall.storage.eviction import Spill
from datahall.storage.execute_tensor import as_plain, view_bytes
from datahall.storage.faults import CorruptShard
from datahall.storage.manifest import digest


class Offload:
    """Counts: bytes that stayed, bytes that were written (`spill`, told of each size in turn), bytes that were read."""

    def __init__(self, folder: Path, limit_bytes: int, least_bytes: int = 1 << 16) -> None:
        self.folder = folder
        self.spill = Spill(limit_bytes, least_bytes)
        self.read_bytes = 0
        self._numbers = itertools.count()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    @property
    def kept_bytes(self) -> int:
        """Bytes that stayed in memory."""
        return self.spill.kept_bytes

    @property
    def written_bytes(self) -> int:
        """Bytes that went to files."""
        return self.spill.written_bytes

    def __enter__(self) -> Offload:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _pack(self, tensor: torch.Tensor) -> Any:
        size = tensor.nbytes
        parameter = isinstance(tensor, torch.nn.Parameter) or (tensor._base is not None and tensor._base.is_leaf)
        if parameter or self.spill.keeps(size):
            return tensor
        data = view_bytes(as_plain(tensor))
        path = self.folder / f"{next(self._numbers)}.activation"
        path.write_bytes(data)
        return path, digest(data), tensor.shape, tensor.dtype, tensor.device

    def _unpack(self, held: Any) -> torch.Tensor:
        if isinstance(held, torch.Tensor):
            return held
        path, expected, shape, dtype, device = held
        tensor = torch.empty(shape, dtype=dtype)
        with path.open("rb") as file:
            got = file.readinto(view_bytes(tensor))
        if got != tensor.nbytes or digest(view_bytes(tensor)) != expected:
            raise CorruptShard("an activation is not what was written.", where=str(path))
        self.read_bytes += tensor.nbytes
        return tensor.to(device)

    def clear(self) -> None:
        """Remove the files, once backward is done."""
        for path in self.folder.glob("*.activation"):
            path.unlink()
