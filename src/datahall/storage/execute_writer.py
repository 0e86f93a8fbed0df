"""The storage writer under PyTorch's distributed checkpoint: every rank writes its shards, the coordinator commits.

Each rank stripes the chunks of its tensors over a few shards and writes them with one thread each.  Beside the state
itself each thread holds one chunk in memory and as stored, the piece that its file is written from, and one tensor of
those that do not lie in one piece.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from datahall.storage.codec import encode
from datahall.storage.execute_tensor import as_plain, dtype_name, is_plain, view_bytes
from datahall.storage.faults import AlreadyCommitted, CorruptShard, StoreFault
from datahall.storage.manifest import (
    MANIFEST,
    Chunk,
    Manifest,
    Piece,
    Shard,
    Tensor,
    digest,
    shard_name,
    step_folder,
)
from datahall.storage.place import Place
from datahall.storage.plan import CHUNK_BYTES
from datahall.storage.store import read_manifest


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the coordinator tells a rank: the attempt's token and the rank's number."""

    token: str
    rank: int


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a rank tells the coordinator of one item: chunks by shard name, or the JSON text of an object."""

    chunks: tuple[tuple[str, Chunk], ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Job:
    """One chunk to write: bytes `start` to `stop` of an item."""

    item: int
    start: int
    stop: int


class ShardWriter(StorageWriter):
    """Writes one step to a place.  `manifest` is set on the coordinator when the step is committed."""

    def __init__(
        self,
        place: Place,
        step: int,
        *,
        codec: str,
        shards: int,
        run: Mapping[str, Any],
        extras: Any,
        replace: bool,
        check: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._place = place
        self._folder = step_folder(step)
        self._step = step
        self._codec = codec
        self._shards = max(1, shards)
        self._run = run
        self._extras = extras
        self._replace = replace
        self._check = check
        self._attempt = Attempt("0" * 16, 0)
        self.manifest: Manifest | None = None

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing to reset: a writer serves one step."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Refuse early what could not be committed later."""
        if is_coordinator and not self._replace and MANIFEST in self._place.files(self._folder):
            raise AlreadyCommitted(
                f"step {self._step} is committed already.",
                where=self._place.name,
                hint="Pass replace=True to write it anew.",
            )

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned, unless there is nothing worth writing: what is raised here is raised on all ranks."""
        if self._check is not None:
            self._check()
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Give every rank the attempt's token."""
        token = secrets.token_hex(8)
        self._attempt = Attempt(token, 0)
        return [replace(plan, storage_data=Attempt(token, rank)) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's items; the future is complete when this returns."""
        attempt: Attempt = plan.storage_data
        stored: dict[int, _Stored] = {}
        for number, item in enumerate(plan.items):
            if item.type is WriteItemType.BYTE_IO:
                stream: Any = planner.resolve_data(item)
                stored[number] = _Stored(text=io.BytesIO(stream.getbuffer()).read().decode())
        chunks = self._write_shards(plan, planner, attempt)
        for number, item in enumerate(plan.items):
            if item.type is not WriteItemType.BYTE_IO:
                ordered = sorted(chunks[number], key=lambda entry: entry[0])
                stored[number] = _Stored(tuple((name, chunk) for _, name, chunk in ordered))
        results = [
            WriteResult(item.index, sum(chunk.stored for _, chunk in stored[n].chunks), stored[n])
            for n, item in enumerate(plan.items)
        ]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Put the manifest in its place: from now on the step exists."""
        manifest = self._assemble(metadata, results)
        held = self._place.files(self._folder)
        for shard in manifest.shards:
            if held.get(shard.name, (-1, 0.0))[0] != shard.bytes:
                raise CorruptShard("the shard is not what a rank wrote.", where=f"{self._folder}/{shard.name}")
        before = self._replaced(held)
        self._place.commit(self._folder, MANIFEST, manifest.dumps().encode(), self._replace)
        self.manifest = manifest
        for name in before:
            self._place.remove(self._folder, name)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any text names a place."""
        return True

    def _replaced(self, held: Mapping[str, Any]) -> list[str]:
        """Shards of a manifest that this one replaces."""
        if not self._replace or MANIFEST not in held:
            return []
        try:
            return [shard.name for shard in read_manifest(self._place, self._step).shards]
        except StoreFault:
            return []  # a damaged manifest: what it named becomes a leftover

    def _write_shards(
        self, plan: SavePlan, planner: SavePlanner, attempt: Attempt
    ) -> dict[int, list[tuple[int, str, Chunk]]]:
        queues = _stripe(plan.items, planner, self._shards)
        names = [shard_name(attempt.token, attempt.rank, number) for number in range(len(queues))]
        found: dict[int, list[tuple[int, str, Chunk]]] = {
            n: [] for n, item in enumerate(plan.items) if item.type is not WriteItemType.BYTE_IO
        }
        if not queues:
            return found
        with ThreadPoolExecutor(len(queues), thread_name_prefix="shard") as pool:
            tasks = [
                pool.submit(self._write_shard, plan, planner, name, queue)
                for name, queue in zip(names, queues, strict=True)
            ]
        try:
            for name, task in zip(names, tasks, strict=True):
                for job, chunk in task.result():
                    found[job.item].append((job.start, name, chunk))
        except BaseException:
            self._take_back(names)  # a rank that fails here keeps all from committing
            raise
        return found

    def _take_back(self, names: list[str]) -> None:
        with contextlib.suppress(StoreFault):  # the first failure is the one to tell; `gc` finds what stays
            for name in names:
                self._place.remove(self._folder, name)

    def _write_shard(
        self, plan: SavePlan, planner: SavePlanner, name: str, queue: list[_Job]
    ) -> list[tuple[_Job, Chunk]]:
        sink = self._place.create(self._folder, name)
        written: list[tuple[_Job, Chunk]] = []
        offset, held, data = 0, -1, memoryview(b"")
        dtype = ""
        try:
            for job in queue:
                if job.item != held:
                    tensor = as_plain(_tensor(planner, plan.items[job.item]))
                    held, data, dtype = job.item, view_bytes(tensor), dtype_name(tensor.dtype)
                raw = data[job.start : job.stop]
                codec, stored = encode(self._codec, raw, dtype)
                sink.write(stored)
                written.append((job, Chunk(0, offset, len(stored), len(raw), codec, digest(stored))))
                offset += len(stored)
                del stored  # not held while the next chunk is coded
        except BaseException:
            sink.abandon()
            raise
        sink.close()
        return written

    def _assemble(self, metadata: Metadata, results: list[list[WriteResult]]) -> Manifest:
        entries = [result for of_rank in results for result in of_rank]
        names = sorted({name for entry in entries for name, _ in entry.storage_data.chunks})
        number = {name: n for n, name in enumerate(names)}
        sizes = dict.fromkeys(names, 0)
        pieces: dict[str, list[Piece]] = {}
        objects: dict[str, Any] = {}
        for entry in entries:
            about: Any = metadata.state_dict_metadata[entry.index.fqn]
            if not isinstance(about, TensorStorageMetadata):
                objects[entry.index.fqn] = json.loads(entry.storage_data.text)
                continue
            for name, chunk in entry.storage_data.chunks:
                sizes[name] = max(sizes[name], chunk.offset + chunk.stored)
            box = _box(about, tuple(entry.index.offset or ()))
            chunks = tuple(replace(chunk, shard=number[name]) for name, chunk in entry.storage_data.chunks)
            pieces.setdefault(entry.index.fqn, []).append(Piece(*box, chunks))
        tensors = {
            name: Tensor(dtype_name(about.properties.dtype), tuple(about.size), tuple(pieces.get(name, ())))
            for name, about in metadata.state_dict_metadata.items()
            if isinstance(about, TensorStorageMetadata)
        }
        return Manifest(
            step=self._step,
            token=self._attempt.token,
            codec=self._codec,
            run=self._run,
            extras=self._extras,
            shards=tuple(Shard(name, sizes[name]) for name in names),
            tensors=tensors,
            objects=objects,
            paths={name: tuple(path) for name, path in (metadata.planner_data or {}).items()},
        )


def _tensor(planner: SavePlanner, item: WriteItem) -> torch.Tensor:
    tensor: Any = planner.resolve_data(item)
    return tensor


def _box(about: TensorStorageMetadata, offsets: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for chunk in about.chunks:
        if tuple(chunk.offsets) == offsets:
            return offsets, tuple(chunk.sizes)
    return tuple(0 for _ in about.size), tuple(about.size)


def _stripe(items: list[WriteItem], planner: SavePlanner, shards: int) -> list[list[_Job]]:
    """Chunks to shards, each to the shard with the fewest bytes; a tensor that needs a copy stays in one shard."""
    jobs: list[list[_Job]] = []
    for number, item in enumerate(items):
        if item.type is WriteItemType.BYTE_IO or item.tensor_data is None:
            continue
        sizes = item.tensor_data.chunk.sizes
        total = math.prod(sizes) * item.tensor_data.properties.dtype.itemsize
        parts = [_Job(number, at, min(at + CHUNK_BYTES, total)) for at in range(0, total, CHUNK_BYTES)]
        jobs += [[part] for part in parts] if is_plain(_tensor(planner, item)) else [parts]
    loads = [0] * min(shards, max(1, len(jobs)))
    queues: list[list[_Job]] = [[] for _ in loads]
    for group in jobs:
        least = loads.index(min(loads))
        queues[least] += group
        loads[least] += sum(job.stop - job.start for job in group)
    return [queue for queue in queues if queue]
