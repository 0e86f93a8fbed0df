"""Parts of tensors that lie in flat memory, as a checkpoint takes them: boxes under the name of the whole tensor.

A share of a flat buffer begins and ends in the middle of some tensor, in the middle of a row.  Cut at rows, such a part
is a few boxes, and a checkpoint that is made of boxes is read by any other split.  PyTorch's planner asks for them
(`torch.distributed._checkpointable`); nothing is copied, and nothing can be computed with a `FlatPiece`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lies: in a worker's piece of a tensor from element `start` on, counted row by row.

    `sizes` are the piece's, `offsets` where it begins in the tensor, which has the shape `whole`.  `written` is False
    where another worker, which holds the same piece, writes it.
    """

    whole: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    written: bool
    start: int = 0

    def further(self, count: int) -> Place:
        """`count` elements later."""
        return replace(self, start=self.start + count)


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a tensor, and how many elements of the part are before it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    before: int


class FlatPiece(torch.Tensor):
    """The elements of one tensor that `memory` (flat) holds, which shows the shape of the whole tensor."""

    memory: torch.Tensor
    place: Place
    boxes: list[Box]

    @staticmethod
    def __new__(cls, memory: torch.Tensor, place: Place) -> FlatPiece:
        """A tensor without memory of its own."""
        made: Any = torch.Tensor._make_wrapper_subclass  # pyright: ignore[reportAttributeAccessIssue]
        return made(cls, place.whole, dtype=memory.dtype, device=memory.device)

    def __init__(self, memory: torch.Tensor, place: Place) -> None:
        self.memory, self.place = memory, place
        self.boxes = [
            replace(box, offsets=tuple(at + own for at, own in zip(place.offsets, box.offsets, strict=True)))
            for box in boxes_of(place.sizes, place.start, place.start + memory.numel())
        ]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Only what a checkpoint does with a tensor before it asks for its boxes."""
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"{func} on a part in flat memory")

    def __repr__(self, *, tensor_contents: object = None) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Where it lies, since it has no contents to show."""
        return f"FlatPiece({self.place})"

    def to_local(self) -> torch.Tensor:
        """What this worker holds of the tensor."""
        return self.memory

    def over(self, memory: torch.Tensor) -> FlatPiece:
        """The same part in other memory."""
        return FlatPiece(memory, self.place)

    def __create_write_items__(self, name: str, held: Any) -> list[WriteItem]:
        """As PyTorch's planner asks: what this worker writes."""
        properties, size = TensorProperties.create_from_tensor(self.memory), torch.Size(self.place.whole)
        return [
            WriteItem(
                MetadataIndex(name, chunk.offsets),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, properties, size),
            )
            for chunk in (self.__create_chunk_list__() if self.place.written else [])
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """As PyTorch's planner asks: what this worker reads."""
        return [ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes)) for box in self.boxes]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        """As PyTorch's planner asks: the memory of a box."""
        box = next(box for box in self.boxes if box.offsets == tuple(index.offset or ()))
        return self.memory[box.before : box.before + math.prod(box.sizes)].view(box.sizes)


def boxes_of(sizes: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """The boxes of elements `start` to `stop` - 1 of a tensor, in order: at most two a dimension and one more."""
    if start >= stop:
        return
    if len(sizes) < 2:
        yield Box((start,)[: len(sizes)], (stop - start,)[: len(sizes)], 0)
        return
    row = math.prod(sizes[1:])
    at = start
    while at < stop:
        first, inside = divmod(at, row)
        rows = (stop - at) // row
        if inside or not rows:
            end = min(stop, (first + 1) * row)
            for box in boxes_of(sizes[1:], inside, inside + end - at):
                yield Box((first, *box.offsets), (1, *box.sizes), at - start + box.before)
        else:
            end = at + rows * row
            yield Box((first, *(0 for _ in sizes[1:])), (rows, *sizes[1:]), at - start)
        at = end
