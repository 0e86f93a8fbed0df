"""The sweep behind `storage_forecast`: real saves, loads and reshardings by one or several processes, timed.

Saves and loads: every client has a state and a store of its own, and all begin at once.  Reshardings: two ranks wrote
one checkpoint as FSDP does (cut by rows); the clients are ranks of one group and each loads its part of it, by rows
(another number of ranks) or by columns (tensor parallel).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from storage_shaped import shaped
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from datahall.storage import execute
from datahall.storage.estimate import reshard_read_bytes
from datahall.storage.execute_probe import forget

FORK = multiprocessing.get_context("fork")
LINK_BYTES_PER_S = 200e6
LINK_ROUNDS = 3  # a clock holds the bytes back: such times scatter little
CODECS = ("none", "zstd", "planes")
TIERS = ("memory", "disk", "link")
WAYS = ("write", "read", "rows", "columns")
SIZES = (8, 24, 72)  # megabytes of a client
TENSORS, WRITERS, COLUMNS = 8, 2, 1000


@dataclass(frozen=True)
class Setting:
    """One configuration: megabytes of one client, files of one writer, and what the clients do."""

    megabytes: int
    shards: int
    codec: str
    tier: str
    clients: int
    way: str

    @property
    def direction(self) -> str:
        """What the tier does."""
        return "write" if self.way == "write" else "read"

    @property
    def joined(self) -> str:
        """Whether the clients plan together: a resharding is one load by a group."""
        return self.direction if self.way in {"write", "read"} else "together"

    @property
    def file(self) -> str:
        """What a file costs apart: only on a disk is it waited for."""
        return "disk" if self.tier == "disk" else "memory"

    @property
    def read_bytes(self) -> float:
        """Raw bytes that one client writes or reads: a resharding by columns reads everything."""
        own = self.megabytes * 10**6
        if self.way == "columns":
            return float(own * self.clients)
        if self.way != "rows":
            return float(own)
        piece, wanted = own * self.clients // (TENSORS * WRITERS), own // TENSORS
        if self.clients <= WRITERS:
            return float(own)  # whole pieces
        return float(TENSORS * reshard_read_bytes(piece, piece - wanted, wanted))  # the second half: the dearer one

    @property
    def cut_bytes(self) -> float:
        """Of these, bytes that are read beside their place and copied."""
        whole = self.way in {"write", "read"} or self.clients == 1 or (self.way == "rows" and self.clients <= WRITERS)
        return 0.0 if whole else self.read_bytes


def draw(count: int, seed: int) -> list[Setting]:
    """`count` of all settings, at random."""
    every = [
        Setting(m, n, codec, tier, clients, way)
        for m in SIZES for n in (1, 2, 4) for codec in CODECS for tier in TIERS
        for clients in (1, 2, 4) for way in WAYS if (clients, way) != (1, "columns")
    ]  # fmt: skip
    return random.Random(seed).sample(every, count)


def measure(setting: Setting, roots: dict[str, Path], rounds: int) -> list[float]:
    """Seconds of the slowest client, round by round; a first round is not counted."""
    root = roots[setting.tier]
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    task = _alone if setting.way in {"write", "read"} else _resharding
    if task is _resharding:
        _state(setting.megabytes * setting.clients)
        _join([FORK.Process(target=_written, args=(setting, root, rank)) for rank in range(WRITERS)])
    else:
        _state(setting.megabytes)
    gate, told = FORK.Barrier(setting.clients), FORK.Queue()
    clients = [
        FORK.Process(target=task, args=(setting, root, rank, rounds + 1, gate, told)) for rank in range(setting.clients)
    ]
    for client in clients:
        client.start()
    entries = [told.get(timeout=120) for _ in range((rounds + 1) * setting.clients)]
    for client in clients:
        client.join()
    return [max(s for number, s in entries if number == n) for n in range(1, rounds + 1)]


def sweep(settings: list[Setting], folder: Path, rounds: int, most_s: float) -> list[list[float]]:
    """Seconds of each setting, round by round; of fewer settings where `most_s` does not do for all."""
    until = time.monotonic() + most_s
    found: list[list[float]] = []
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(dir=folder) as disk,
    ):
        roots = {"memory": Path(memory) / "m", "disk": Path(disk) / "d", "link": Path(memory) / "link"}
        for number, setting in enumerate(settings):
            if time.monotonic() > until:
                break
            found.append(measure(setting, roots, rounds if setting.tier != "link" else min(rounds, LINK_ROUNDS)))
            if number % 10 == 9:
                print(f"{number + 1} of {len(settings)} configurations", file=sys.stderr, flush=True)
    return found


def ratios() -> dict[str, float]:
    """Raw over stored bytes by codec, from a sample."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS:
            saved = execute.save(f"{folder}/{codec}", 1, _state(24), codec=codec)
            found[codec] = saved.raw_bytes / saved.stored_bytes
    return found


@cache
def _state(megabytes: int) -> dict[str, torch.Tensor]:
    """bf16 weights as eight tensors; drawn once, and shared with the processes that are forked."""
    generator = torch.Generator().manual_seed(1)
    rows = megabytes * 10**6 // (2 * TENSORS * COLUMNS)
    made = (torch.empty(rows, COLUMNS).normal_(0, 0.02, generator=generator) for _ in range(TENSORS))
    return {f"w{n}": tensor.bfloat16() for n, tensor in enumerate(made)}


def _alone(setting: Setting, root: Path, rank: int, rounds: int, gate: Any, told: Any) -> None:
    torch.set_num_threads(1)
    folder, state = root / f"client{rank}", _state(setting.megabytes)
    target = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    options: dict[str, Any] = {"codec": setting.codec, "shards": setting.shards}
    if setting.way == "read":
        execute.save(folder, 1, state, **options)
    with _link(setting):
        for number in range(rounds):
            if setting.way == "read" and setting.tier == "disk":
                forget(folder)
            gate.wait()
            began = time.perf_counter()
            if setting.way == "write":
                execute.save(folder, number, state, **options)
            else:
                execute.load(folder, target)
            told.put((number, time.perf_counter() - began))
            gate.wait()
            if setting.way == "write":
                shutil.rmtree(folder)


def _written(setting: Setting, root: Path, rank: int) -> None:
    _group(root, rank, WRITERS, "written")
    mesh = init_device_mesh("cpu", (WRITERS,))
    state = {
        name: DTensor.from_local(tensor.chunk(WRITERS)[rank].contiguous(), mesh, [Shard(0)], run_check=False)
        for name, tensor in _state(setting.megabytes * setting.clients).items()
    }
    execute.save(root / "store", 1, state, codec=setting.codec, shards=setting.shards)
    os._exit(0)  # not through gloo's farewell


def _resharding(setting: Setting, root: Path, rank: int, rounds: int, gate: Any, told: Any) -> None:
    _group(root, rank, setting.clients, "read")
    axis = 0 if setting.way == "rows" else 1
    target: dict[str, torch.Tensor] = {}
    for name, tensor in _state(setting.megabytes * setting.clients).items():
        part = torch.zeros_like(tensor.chunk(setting.clients, axis)[rank].contiguous())
        if setting.clients > 1:
            mesh = init_device_mesh("cpu", (setting.clients,))
            part = DTensor.from_local(part, mesh, [Shard(axis)], run_check=False)
        target[name] = part
    with _link(setting):
        for number in range(rounds):
            if setting.tier == "disk" and rank == 0:
                forget(root / "store")
            gate.wait()
            began = time.perf_counter()
            execute.load(root / "store", target)
            told.put((number, time.perf_counter() - began))
            gate.wait()
    told.close()
    told.join_thread()
    os._exit(0)


def _group(root: Path, rank: int, world: int, name: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{root}/{name}", rank=rank, world_size=world)


def _link(setting: Setting) -> Any:
    return shaped(LINK_BYTES_PER_S / setting.clients) if setting.tier == "link" else nullcontext()


def _join(processes: list[Any]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError("a writer of the sweep failed")
