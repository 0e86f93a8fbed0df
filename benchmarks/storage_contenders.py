"""Who saves and loads in `storage_speed`: the disk, torch.save, PyTorch's distributed checkpoint, and the store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

from datahall.storage import execute
from datahall.storage.execute_async import BackgroundSaver

PART = 16 << 20
THREADS = 4
STALL = "datahall copy, nobody followed"


def training_state(gigabytes: float) -> dict[str, Any]:
    """fp32 weights and both moments of a transformer of width 1024, as many layers as make `gigabytes`."""
    layer = {"qkv": (3072, 1024), "out": (1024, 1024), "up": (4096, 1024), "down": (1024, 4096), "norm": (1024,)}
    layers = max(1, round((gigabytes * 1e9 / 12 - 32000 * 1024) / 12.58e6))
    shapes = {"embedding": (32000, 1024)}
    shapes |= {f"layer.{n}.{name}": shape for n in range(layers) for name, shape in layer.items()}
    generator = torch.Generator().manual_seed(0)

    def draw(scale: float) -> dict[str, torch.Tensor]:
        return {name: torch.empty(shape).normal_(0, scale, generator=generator) for name, shape in shapes.items()}

    return {"model": draw(0.02), "first": draw(1e-4), "second": {k: v.square_() for k, v in draw(1e-5).items()}}


def flat(state: dict[str, Any]) -> list[torch.Tensor]:
    """All tensors."""
    return [tensor for group in state.values() for tensor in group.values()]


def drop(folder: Path) -> None:
    """Synchronise the files and forget their pages."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def savers(folder: Path, state: dict[str, Any], background: BackgroundSaver) -> dict[str, Callable[[], Any]]:
    """Every contender's way to save, by name, each in a folder of its own; the background save is not waited for."""

    def by_dcp(name: str, threads: int) -> None:
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / name, thread_count=threads), no_dist=True)

    return {
        "raw write": lambda: raw_write(folder / "raw", state),
        "torch.save, no fsync": lambda: torch_save(folder / "unsafe" / "0.pt", state, sync=False),
        "torch.save": lambda: torch_save(folder / "torch" / "0.pt", state, sync=True),
        "DCP save, 1 thread": lambda: by_dcp("dcp-1", 1),
        f"DCP save, {THREADS} threads": lambda: by_dcp("dcp", THREADS),
        "datahall save": lambda: execute.save(folder / "store", 1, state),
        STALL: lambda: background.save(1, state),
    }


def loaders(folder: Path, state: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Every contender's way to load what it saved, by name, into memory that is mapped already (but torch.load's)."""
    target = {group: {name: torch.zeros_like(t) for name, t in inner.items()} for group, inner in state.items()}
    buffer = torch.zeros(sum(tensor.nbytes for tensor in flat(state)), dtype=torch.uint8)
    return {
        "torch.load": lambda: torch.load(folder / "torch" / "0.pt"),
        "DCP load": lambda: dcp.load(target, storage_reader=dcp.FileSystemReader(folder / "dcp"), no_dist=True),
        "raw read": lambda: raw_read(folder / "store", buffer),
        "datahall load": lambda: execute.load(folder / "store", target),
    }


def raw_write(folder: Path, state: dict[str, Any]) -> None:
    """The tensors' bytes with THREADS threads, one file each, fsync; no digest, no manifest."""
    folder.mkdir(parents=True)
    tensors = flat(state)

    def run(number: int) -> None:
        fd = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT)
        for tensor in tensors[number::THREADS]:
            view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            for at in range(0, len(view), PART):
                os.write(fd, view[at : at + PART])
        os.fsync(fd)
        os.close(fd)

    _together(run)


def raw_read(folder: Path, into: torch.Tensor) -> None:
    """All files of the store with THREADS threads into memory that is mapped already; no digest."""
    parts: list[tuple[Path, int, memoryview]] = []
    view, at = memoryview(into.numpy()), 0
    for path in sorted(folder.rglob("*.shard")):
        size = path.stat().st_size
        parts += [(path, o, view[at + o : at + min(o + PART, size)]) for o in range(0, size, PART)]
        at += size
    turn = iter(parts)
    lock = threading.Lock()

    def run(_: int) -> None:
        while True:
            with lock:
                part = next(turn, None)
            if part is None:
                return
            fd = os.open(part[0], os.O_RDONLY)
            os.preadv(fd, [part[2]], part[1])
            os.close(fd)

    _together(run)


def _together(run: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def torch_save(path: Path, state: dict[str, Any], sync: bool) -> None:
    """torch.save to one file."""
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    if sync:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
