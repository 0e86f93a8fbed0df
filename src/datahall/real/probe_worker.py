"""One process of the probe: `python -m datahall.real.probe_worker job.json rank`.  Started by the probe.

Rank 0 first measures alone, one thread and several, then all processes at once, then messages between them.  Each
finding is one line of `findings.jsonl`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist

from datahall.catalog import codecs
from datahall.real.group import leave_together
from datahall.real.probe_kernels import kernels, undisturbed
from datahall.real.probe_tensor import thin_models
from datahall.real.probe_timing import time_together
from datahall.real.process import die_with_parent
from datahall.storage.execute import load, save
from datahall.storage.execute_probe import probe_codecs
from datahall.storage.plan import DEFAULT_SHARDS

MESSAGE_BYTES = tuple(4**power for power in range(4, 13))  # 256 bytes to 16 MiB
_SHARDED_BYTES = MESSAGE_BYTES[-3:]
_FILE_BYTES = (2**18, 2**22, 2**24, 2**26)
_PARAMETERS = 32  # of the probe's checkpoint: as many as a small language model has
_CODEC_BYTES = 2**24


def main(path: str, rank: int) -> None:
    """Carry out the probe's job."""
    job = json.loads(Path(path).read_text())
    die_with_parent(job["parent"])
    with (Path(job["folder"]) / f"findings-{rank}.jsonl").open("w", encoding="utf-8") as file:
        _measure(job, rank, _Teller(file, rank))


class _Teller:
    def __init__(self, file: TextIO, rank: int) -> None:
        self.file = file
        self.rank = rank

    def tell(self, finding: dict[str, Any], **about: Any) -> None:
        self.file.write(json.dumps({**finding, **about}) + "\n")
        self.file.flush()


def _measure(job: dict[str, Any], rank: int, teller: _Teller) -> None:
    quick, budget_s = job["quick"], job["budget_s"]
    if rank == 0:
        alone: list[dict[str, Any]] = []
        for threads in job["threads"]:
            torch.set_num_threads(threads)
            found = undisturbed(partial(kernels, quick, budget_s), alone)
            alone = alone or found
            for finding in found:
                teller.tell(finding, threads=threads, processes=1)
        torch.set_num_threads(1)
        for finding in _codecs(quick):
            teller.tell(finding)
    disk = Path(job["folder"]) / "disk"
    if job["processes"] == 1:
        for finding in _disk(disk, 1, quick):
            teller.tell(finding)
        return
    dist.init_process_group("gloo", init_method=job["rendezvous"], rank=rank, world_size=job["processes"])
    torch.set_num_threads(1)
    for finding in _together(quick, budget_s):
        teller.tell(finding, threads=1, processes=job["processes"])
    for finding in itertools.chain(_messages(quick), thin_models(quick)):
        teller.tell(finding, processes=job["processes"])
    for finding in _disk(disk, job["processes"], quick):
        teller.tell(finding)
    leave_together()


def _together(quick: bool, budget_s: float) -> Iterator[dict[str, Any]]:
    """The kernels while every process runs the same one."""
    dist.barrier()
    for finding in kernels(quick, budget_s):
        yield finding
        dist.barrier()


def _messages(quick: bool) -> Iterator[dict[str, Any]]:
    for count in MESSAGE_BYTES:
        buffer = torch.zeros(count // 4)
        repeats = 15 if count > 2**20 else 30 if quick else 100
        all_reduce: Callable[[], Any] = lambda buffer=buffer: dist.all_reduce(buffer)  # noqa: E731
        all_reduce()
        dist.barrier()
        yield {"kind": "all_reduce", "bytes": count, **time_together(all_reduce, repeats).to_json()}
    for count in _SHARDED_BYTES:
        share = torch.zeros(count // 4 // dist.get_world_size())
        whole = share.repeat(dist.get_world_size())
        for kind, call in (
            ("all_gather", partial(dist.all_gather_into_tensor, whole, share)),
            ("reduce_scatter", partial(dist.reduce_scatter_tensor, share, whole)),
        ):
            call()
            dist.barrier()
            yield {"kind": kind, "bytes": 4 * whole.numel(), **time_together(call, 7 if quick else 15).to_json()}


def _disk(folder: Path, processes: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Write and read checkpoints as a run does: by all processes, of many tensors, flushed; read from the disk."""
    steps = itertools.count(1)
    meet: Callable[[], Any] = dist.barrier if processes > 1 else lambda: None
    shards = max(1, DEFAULT_SHARDS // processes)

    def write(state: dict[str, torch.Tensor]) -> None:
        save(folder, next(steps), state, keep=1, shards=shards)
        meet()

    def forget() -> None:
        _drop_cached(folder)
        meet()

    for count in _FILE_BYTES[: 3 if quick else 4]:
        state = _like_a_checkpoint(count)
        for kind, call, repeats, setup in (
            ("disk_write", partial(write, state), 5 if quick else 11, meet),
            ("disk_read", partial(load, folder, state), 3 if quick else 7, forget),
        ):
            call()
            yield {
                "kind": kind,
                "bytes": count,
                "processes": processes,
                **time_together(call, repeats, setup).to_json(),
            }


def _like_a_checkpoint(count: int) -> dict[str, torch.Tensor]:
    """Weights, two moments and a step of some parameters, `count` bytes in all: every tensor costs its part."""
    each = count // 4 // (3 * _PARAMETERS)
    return {
        f"{number}.{kind}": torch.zeros(()) if kind == "step" else torch.randn(each)
        for number in range(_PARAMETERS)
        for kind in ("weight", "first", "second", "step")
    }


def _codecs(quick: bool) -> Iterator[dict[str, Any]]:
    """What one core codes, of values that are as dense as trained weights."""
    data = {"dense": torch.empty(_CODEC_BYTES // 4).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))}
    cores = min(DEFAULT_SHARDS, os.cpu_count() or 1)
    for rate in probe_codecs(data, codecs.names(), rounds=2 if quick else 4):
        yield {
            "kind": "codec",
            "codec": rate.codec,
            "ratio": rate.ratio,
            "encode_bytes_per_s": rate.encode_bytes_per_s / cores,
            "decode_bytes_per_s": rate.decode_bytes_per_s / cores,
        }


def _drop_cached(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)
