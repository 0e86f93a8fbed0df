"""One worker of a run with fast recovery: `python -m datahall.real.fast_worker job.json rank`.  Started by `fast`.

Before each step torchft's manager agrees with the others on who takes part; after it they agree whether it counts.  A
step that failed because somebody died is done again with who is left.  Everything listens on loopback only.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchft.manager  # pyright: ignore[reportMissingImports]
from safetensors.torch import save_file
from torchft.process_group import ProcessGroupGloo  # pyright: ignore[reportMissingImports]

from datahall.base.workload import Workload
from datahall.compute.execute import DataParallel
from datahall.real.fast import EXIT_ALONE, REPLACEMENT
from datahall.real.fast_healing import FileTransport
from datahall.real.group import begin_together
from datahall.real.input import micro_batches, order_of
from datahall.real.job import Job, load_job
from datahall.real.measure import AGREEING
from datahall.real.observe import MemoryWatch
from datahall.real.process import die_with_parent
from datahall.real.record import Recorder
from datahall.workloads import entry

LOOPBACK = "127.0.0.1"
_COLLECTIVE_S = timedelta(seconds=10)
_QUORUM_S = timedelta(seconds=60)


def main(path: str, rank: int, *, replacement: bool) -> int:
    """Run worker `rank` of the job at `path`, a `replacement` only beside others; returns the exit code."""
    job = load_job(Path(path))
    die_with_parent(job.parent)
    try:
        return _run(job, rank, replacement)
    except Exception:
        traceback.print_exc()
        return 1


def _run(job: Job, rank: int, replacement: bool) -> int:
    torch.set_num_threads(job.plan.compute.threads)
    recorder = Recorder(job.folder, rank, job.workers, job.attempt, job.origin_s)
    recorder.mark("start")
    memory = MemoryWatch(torch.device("cpu"))
    workload = entry.build(job.case, job.import_paths)
    inner = DataParallel(workload, job.plan.compute, 0, torch.device("cpu"), None, alone=True)
    store = _loopback_store()
    manager = _manager(job, rank, store, inner)
    recorder.marks.clear()
    recorder.event("ready", step=0, idle_bytes=memory.idle_bytes, memory_exact=memory.exact)
    worker = _Worker(job, rank, workload, inner, manager, recorder)
    if not replacement:
        begin_together(job.folder / "workers", rank, job.workers)
    while manager.current_step() < job.stop:
        if not worker.step(first=replacement):
            return EXIT_ALONE
        replacement = False
    recorder.event("trained", peak_bytes=memory.peak_bytes(), host_bytes=memory.host_bytes(), host=platform.node())
    _observe(job, workload, inner, recorder)
    recorder.close()
    return 0


class _Worker:
    """The loop's state between steps."""

    def __init__(
        self, job: Job, rank: int, workload: Workload, inner: DataParallel, manager: Any, recorder: Recorder
    ) -> None:
        self.job, self.rank, self.workload, self.inner = job, rank, workload, inner
        self.manager, self.recorder = manager, recorder
        self.order = order_of(workload, job.case.application.seed)
        self.failed = 0

    def step(self, *, first: bool = False) -> bool:
        """One try at the next step; it is logged when it counts.

        False for the `first` step of a replacement that nobody took along: the run is over, or everybody is gone.
        """
        recorder, manager = self.recorder, self.manager
        began_cpu_s = time.process_time()
        manager.start_quorum()
        recorder.step = manager.current_step()
        shares, loss = self._learnt(recorder.step)
        recorder.mark(AGREEING)  # began before the arithmetic, which hides it as far as it can
        manager.wait_quorum()
        recorder.mark("exchange")
        handed = self._mean_over_participants()
        recorder.mark(AGREEING)
        counted = manager.should_commit()
        recorder.mark("optimiser")
        took_part = manager.is_participating()
        if first and counted and manager.current_step() == 1:
            return False
        if counted:
            self.inner.update()
        else:
            self.inner.optimiser.zero_grad(set_to_none=True)
            self.failed += 1
            return True
        recorder.step = manager.current_step() - 1  # a worker that was healed is where the others are
        self._log(shares if took_part else [], loss if took_part else None, handed, began_cpu_s)
        return True

    def _log(self, shares: Sequence[Sequence[int]], loss: float | None, handed: int, began_cpu_s: float) -> None:
        """Write down a step that counts: the samples that this worker had in it, and how many tries it took."""
        for ids in shares:
            self.recorder.loaded(ids)
        self.recorder.mark("idle")
        self.recorder.end_step(
            loss=loss,
            calls=1,
            bytes=handed,
            group=0,
            cpu_s=round(time.process_time() - began_cpu_s, 6),
            participants=self.manager.num_participants(),
            failed=self.failed,
        )
        self.failed = 0

    def _learnt(self, number: int) -> tuple[list[Sequence[int]], float]:
        """This worker's samples of step `number` by micro-batch, and their loss; gradients are there."""
        seed, compute = self.job.case.application.seed, self.job.plan.compute
        torch.manual_seed(hash((seed, number, self.rank)))
        self.recorder.mark("input")
        shares = micro_batches(self.order, compute, number * compute.global_batch, self.rank, self.job.workers)
        batches = (self.workload.data.batch(ids) for ids in shares)
        return shares, self.inner.gradients(batches, len(shares), self.recorder.mark)

    def _mean_over_participants(self) -> int:
        """Replace gradients by their mean over who takes part; bytes handed over."""
        gradients = [p.grad for p in self.inner.module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.manager.allreduce(flat).wait()
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return flat.numel() * flat.element_size()


def _loopback_store() -> Any:
    """This worker's store for torchft, which others read; a socket of ours, since torch's would listen everywhere."""
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    store: Any = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage]
    return store(
        LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(), use_libuv=False
    )


def _manager(job: Job, rank: int, store: Any, inner: DataParallel) -> Any:
    server: Callable[..., Any] = torchft.manager.ManagerServer

    def on_loopback(**named: Any) -> Any:
        return server(**{**named, "bind": f"{LOOPBACK}:0"})

    torchft.manager.ManagerServer = on_loopback
    return torchft.manager.Manager(
        pg=ProcessGroupGloo(timeout=_COLLECTIVE_S),
        load_state_dict=inner.restore,
        state_dict=lambda: inner.tensors(complete=True),
        min_replica_size=1,
        timeout=_COLLECTIVE_S,
        quorum_timeout=_QUORUM_S,
        rank=0,
        world_size=1,
        store_addr=LOOPBACK,
        store_port=store.port,
        lighthouse_addr=job.rendezvous,
        replica_id=f"worker_{rank}",
        hostname=LOOPBACK,
        checkpoint_transport=FileTransport(job.folder / "healing", rank),
        init_sync=False,  # every worker begins with the weights of the same seed
    )


def _observe(job: Job, workload: Workload, inner: DataParallel, recorder: Recorder) -> None:
    """The workload's metrics, and the weights: each worker has all of them, and the first to end writes."""
    done = job.folder / "observed"
    try:
        os.close(os.open(done, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    weights = inner.whole_weights()
    recorder.event("metrics", **{name: float(metric(inner.module)) for name, metric in workload.metrics.items()})
    if job.keep_weights:
        named = {f"model.{name}": tensor.contiguous() for name, tensor in weights.items()}
        save_file(named, job.folder / "weights.safetensors")


if __name__ == "__main__":
    status = main(sys.argv[1], int(sys.argv[2]), replacement=REPLACEMENT in sys.argv[3:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
