"""The storage reader under PyTorch's distributed checkpoint: chunks checked by their digest, straight into the tensors.

A box that a rank needs may be cut from several stored pieces; only the chunks that hold its rows are read.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from datahall.storage.codec import decode
from datahall.storage.execute_tensor import DTYPES, is_plain, view_bytes
from datahall.storage.faults import CorruptShard, NoCheckpoint
from datahall.storage.manifest import Chunk, Manifest, Piece, Tensor, digest, step_folder
from datahall.storage.place import Place

READ_THREADS = 4
_Task = tuple[int, int, Callable[[], None]]  # shard, offset, what to do


class ShardReader(StorageReader):
    """Reads one committed step of a place."""

    def __init__(self, place: Place, manifest: Manifest, threads: int = READ_THREADS) -> None:
        super().__init__()
        self._place = place
        self._folder = step_folder(manifest.step)
        self._manifest = manifest
        self._threads = threads

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing to reset: a reader serves one step."""

    def read_metadata(self) -> Metadata:
        """The manifest as PyTorch's planner wants to see it."""
        about: dict[str, Any] = {name: _metadata(tensor) for name, tensor in self._manifest.tensors.items()}
        about |= {name: BytesStorageMetadata() for name in self._manifest.objects}
        return Metadata(about, planner_data=dict(self._manifest.paths))

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        """Nothing to open."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill this rank's tensors; the future is complete when this returns."""
        tasks: list[_Task] = []
        for item in plan.items:
            if item.type is LoadItemType.BYTE_IO:
                text = json.dumps(self._manifest.objects[item.storage_index.fqn])
                planner.load_bytes(item, io.BytesIO(text.encode()))
            else:
                tasks += self._tasks(item, planner)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="read") as pool:
            # in the order of the disk: all threads work on neighbouring chunks
            ordered = sorted(tasks, key=lambda task: task[:2])
            for done in [pool.submit(task) for _, _, task in ordered]:
                done.result()
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any text names a place."""
        return True

    def _tasks(self, item: ReadItem, planner: LoadPlanner) -> list[_Task]:
        tensor = self._manifest.tensors[item.storage_index.fqn]
        piece = _piece(tensor, item)
        target = planner.resolve_tensor(item).detach()
        dtype = tensor.dtype
        whole = tuple(item.lengths) == piece.sizes and not any(item.storage_offsets)
        if whole and is_plain(target) and target.dtype is DTYPES[dtype]:
            memory = view_bytes(target)
            tasks: list[_Task] = []
            at = 0
            for chunk in piece.chunks:
                tasks.append((chunk.shard, chunk.offset, self._into(chunk, memory[at : at + chunk.raw], dtype)))
                at += chunk.raw
            return tasks
        first = piece.chunks[0] if piece.chunks else Chunk(0, 0, 0, 0, "none", "")
        return [(first.shard, first.offset, self._cut(item, piece, target, dtype))]

    def _into(self, chunk: Chunk, target: memoryview, dtype: str) -> Callable[[], None]:
        return lambda: self._read(chunk, target, dtype)

    def _cut(self, item: ReadItem, piece: Piece, target: torch.Tensor, dtype: str) -> Callable[[], None]:
        def run() -> None:
            row_bytes = math.prod(piece.sizes[1:]) * DTYPES[dtype].itemsize
            first = item.storage_offsets[0] if piece.sizes else 0
            rows = item.lengths[0] if piece.sizes else 1
            held = torch.empty((rows, *piece.sizes[1:]) if piece.sizes else (), dtype=DTYPES[dtype])
            self._read_range(piece, first * row_bytes, view_bytes(held), dtype)
            for axis in range(1, len(piece.sizes)):
                held = held.narrow(axis, item.storage_offsets[axis], item.lengths[axis])
            target.copy_(held.reshape(target.shape))

        return run

    def _read_range(self, piece: Piece, start: int, target: memoryview, dtype: str) -> None:
        at = 0
        for chunk in piece.chunks:
            low, high = max(start, at), min(start + len(target), at + chunk.raw)
            if low < high:
                if high - low == chunk.raw:
                    self._read(chunk, target[low - start : high - start], dtype)
                else:
                    whole = bytearray(chunk.raw)
                    self._read(chunk, memoryview(whole), dtype)
                    target[low - start : high - start] = memoryview(whole)[low - at : high - at]
            at += chunk.raw

    def _read(self, chunk: Chunk, target: memoryview, dtype: str) -> None:
        name = self._manifest.shards[chunk.shard].name
        direct = chunk.codec == "none"
        stored = target if direct else memoryview(bytearray(chunk.stored))
        where = f"{self._place.name}/{self._folder}/{name}"
        try:
            got = self._place.read_into(self._folder, name, chunk.offset, stored)
        except NoCheckpoint as error:
            raise CorruptShard("the shard is missing.", where=where) from error
        if got != chunk.stored or digest(stored) != chunk.digest:
            raise CorruptShard(
                f"bytes {chunk.offset} to {chunk.offset + chunk.stored} are not what was written.",
                where=where,
                hint="`datahall store verify` names every damaged file; an earlier checkpoint can be loaded.",
            )
        if not direct:
            decode(chunk.codec, stored, target, dtype, where)


def _metadata(tensor: Tensor) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes)) for piece in tensor.pieces]
    return TensorStorageMetadata(TensorProperties(dtype=DTYPES[tensor.dtype]), torch.Size(tensor.shape), chunks)


def _piece(tensor: Tensor, item: ReadItem) -> Piece:
    offset = tuple(item.storage_index.offset or (0,) * len(tensor.shape))
    for piece in tensor.pieces:
        if piece.offsets == offset:
            return piece
    raise CorruptShard(f"no piece of {item.storage_index.fqn!r} begins at {offset}.")
