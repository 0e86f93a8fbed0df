"""Measure what the choice of a codec rests on: a tier through the real writer with fsync, codecs on real tensors.

Both go through `execute.save` and `load`, so digests, threads and the interpreter are in the figures.  Rates of codecs
are taken in memory (a tmpfs), where the tier costs nothing to speak of.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from datahall.storage import execute
from datahall.storage.choice import CodecRate, Tier
from datahall.storage.place import LocalPlace, open_place
from datahall.storage.store import collect

MEMORY = Path("/dev/shm")  # noqa: S108 - a tmpfs where Linux has one


def probe_tier(path: str | Path, probe_bytes: int = 256 << 20, rounds: int = 3) -> Tier:
    """Write and read `probe_bytes` through the store at `path` (a folder of its own inside, removed afterwards)."""
    folder = f"{str(path).rstrip('/')}/.probe-{os.getpid()}"
    state = {"probe": torch.empty(probe_bytes, dtype=torch.uint8).random_()}
    target = {"probe": torch.zeros(probe_bytes, dtype=torch.uint8)}
    tiny = {"probe": torch.zeros(8)}
    writes: list[float] = []
    reads: list[float] = []
    empties: list[float] = []
    try:
        for _ in range(rounds):
            writes.append(execute.save(folder, 1, state, replace=True).seconds)
            forget(folder)
            began = time.perf_counter()
            execute.load(folder, target)
            reads.append(time.perf_counter() - began)
            empties.append(execute.save(folder, 2, tiny, replace=True).seconds)
            _clear(folder)
    finally:
        _clear(folder)
    latency = statistics.median(empties)
    write, read = statistics.median(writes), statistics.median(reads)
    return Tier(probe_bytes / max(write - latency, 1e-6), probe_bytes / max(read, 1e-6), latency)


def probe_codecs(
    tensors: Mapping[str, torch.Tensor], codecs: Sequence[str], folder: Path = MEMORY, rounds: int = 3
) -> list[CodecRate]:
    """Ratio and rates of `codecs` on `tensors` (a sample is enough: some 64 MB), a client with the usual threads."""
    state = {"sample": dict(tensors)}
    target = {"sample": {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}}
    total = sum(tensor.nbytes for tensor in tensors.values())
    found: list[CodecRate] = []
    with tempfile.TemporaryDirectory(dir=folder if folder.is_dir() else None) as place:
        for codec in codecs:
            writes: list[float] = []
            reads: list[float] = []
            stored = total
            for number in range(rounds):
                saved = execute.save(f"{place}/{codec}", number, state, codec=codec, allow_loss=True)
                writes.append(saved.seconds)
                stored = saved.stored_bytes
                began = time.perf_counter()
                execute.load(f"{place}/{codec}", target, step=number)
                reads.append(time.perf_counter() - began)
            shutil.rmtree(f"{place}/{codec}")
            found.append(CodecRate(codec, total / stored, total / min(writes), total / min(reads)))
    return found


def sample(tensors: Mapping[str, torch.Tensor], limit_bytes: int = 64 << 20) -> dict[str, torch.Tensor]:
    """Rows from the front of every tensor, in proportion, some `limit_bytes` in all."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    share = min(1.0, limit_bytes / max(1, total))
    picked: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1)
        picked[name] = flat[: max(1, int(share * flat.numel()))].clone()
    return picked


def forget(path: str | Path) -> None:
    """Drop a local folder's files from the page cache, so that the next read is the disk's; nothing elsewhere."""
    place = open_place(path)
    if not isinstance(place, LocalPlace):
        return
    for entry in place.root.rglob("*"):
        if entry.is_file():
            fd = os.open(entry, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def _clear(path: str) -> None:
    place = open_place(path)
    if isinstance(place, LocalPlace):
        shutil.rmtree(place.root, ignore_errors=True)
        return
    for folder in place.folders():
        for name in place.files(folder):
            place.remove(folder, name)
        place.remove_folder(folder)
    collect(place, 0, grace_s=0)
