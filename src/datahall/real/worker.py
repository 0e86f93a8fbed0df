"""One worker process: `python -m datahall.real.worker job.json rank [parent origin_s]`, never started by hand.

On another machine than the launcher's, the process that it must not outlive and the run's start on the machine's own
monotonic clock are given too.

Exit codes: 0 done, 1 failed (the reason is in `failed-<rank>.json`), 75 another worker is gone.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn import functional

from datahall.base.errors import DatahallError
from datahall.base.workload import Workload
from datahall.compute import execute
from datahall.real import loop
from datahall.real.checkpoint import Checkpoints
from datahall.real.device_clock import CudaClock
from datahall.real.exchange import TimedExchange
from datahall.real.group import leave_together, lost_peer
from datahall.real.injection import disturbed
from datahall.real.input import micro_batches, order_of
from datahall.real.job import EXIT_LOST_PEER, Job, load_job
from datahall.real.local_updates import LocallyUpdated
from datahall.real.observe import MemoryWatch, count_flops
from datahall.real.observe_collectives import CollectiveCounter
from datahall.real.process import die_with_parent
from datahall.real.record import Recorder
from datahall.workloads import entry

_COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # the launcher finds a hanging worker long before


def main(path: str, rank: int, elsewhere: Sequence[str] = ()) -> int:
    """Run worker `rank` of the job at `path`; returns the exit code."""
    job = load_job(Path(path))
    if elsewhere:
        job = replace(job, parent=int(elsewhere[0]), origin_s=float(elsewhere[1]))
    die_with_parent(job.parent)
    try:
        _run(job, rank)
    except Exception as error:
        traceback.print_exc()
        if lost_peer(error):
            return EXIT_LOST_PEER
        tell_failure(job.folder, rank, error)
        return 1
    return 0


def _run(job: Job, rank: int) -> None:
    torch.set_num_threads(job.plan.compute.threads)
    recorder = Recorder(job.folder, rank, job.workers, job.attempt, job.origin_s)
    recorder.mark("start")
    recorder.event("imported")
    counter = CollectiveCounter()
    counter.watch()
    device = _start_group(job, rank)
    recorder.event("grouped")
    _touch_libraries(job.plan.compute.precision, device)
    execute.executor_class(job.plan.compute)
    memory = MemoryWatch(device)
    workload = disturbed(entry.build(job.case, job.import_paths), job.injection, rank)
    executor = _executor(job, workload, device, recorder)
    checkpoints = Checkpoints(job, executor, recorder, order_of(workload, job.case.application.seed))
    first = checkpoints.resume()
    recorder.marks.clear()
    if device.type == "cuda":
        recorder.clock = CudaClock(device, recorder.now)
    recorder.event("ready", step=first, idle_bytes=memory.idle_bytes, memory_exact=memory.exact)
    loop.train(job, workload, executor, recorder, counter, checkpoints, first)
    recorder.event("trained", peak_bytes=memory.peak_bytes(), host_bytes=memory.host_bytes(), host=platform.node())
    recorder.mark("observe")
    _observe(job, workload, executor, recorder)
    leave_together()
    recorder.close()


def _executor(job: Job, workload: Workload, device: torch.device, recorder: Recorder) -> execute.Executor:
    plan = job.plan
    if plan.network.local_steps > 1 and job.workers > 1:
        return LocallyUpdated(workload, plan, device, recorder)
    return execute.prepare(
        workload,
        plan.compute,
        bucket_bytes=plan.network.bucket_bytes,
        device=device,
        exchange=TimedExchange(recorder, job.injection, plan.network),
    )


def _start_group(job: Job, rank: int) -> torch.device:
    """Join the other workers, where there are any; the device to compute on."""
    on_gpu = job.case.site.accelerator.kind == "gpu" and torch.cuda.is_available()
    if job.workers > 1:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=job.rendezvous,
            rank=rank,
            world_size=job.workers,
            timeout=_COLLECTIVE_TIMEOUT,
        )
    if not on_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _touch_libraries(precision: str, device: torch.device) -> None:
    """A step of nothing, so that the idle worker has the kernels' code in memory before its memory is read."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    weight = torch.ones(64, 64, device=device, requires_grad=True)
    heads = (torch.ones(1, 64, 64, device=device) @ weight).to(dtype).view(1, 64, 4, 16).transpose(1, 2)
    functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True).float().sum().backward()
    torch.optim.AdamW([weight], fused=True).step()


def _observe(job: Job, workload: Workload, executor: execute.Executor, recorder: Recorder) -> None:
    """What is read after the run: the workload's metrics, the weights, and FLOPs of one untimed step.

    The step comes last, since running statistics change with it.
    """
    if workload.metrics or job.keep_weights:
        _read_weights(job, workload, executor, recorder)
    if job.count_flops:
        _count_flops(job, workload, executor, recorder)
    if executor.actions is not None:
        recorder.event("order", actions=executor.actions)


def _read_weights(job: Job, workload: Workload, executor: execute.Executor, recorder: Recorder) -> None:
    weights = executor.whole_weights()
    if recorder.rank != 0:
        return
    model = entry.build(job.case, job.import_paths).model  # the worker's own may be cut into pieces
    model.load_state_dict(weights, strict=False)
    recorder.event("metrics", **{name: float(metric(model)) for name, metric in workload.metrics.items()})
    if job.keep_weights:
        named = {f"model.{name}": tensor.contiguous() for name, tensor in weights.items()}
        save_file(named, job.folder / "weights.safetensors")


def _count_flops(job: Job, workload: Workload, executor: execute.Executor, recorder: Recorder) -> None:
    """FLOPs of one more forward and backward pass over this worker's share, without exchange or update."""
    order = order_of(workload, job.case.application.seed)
    position = job.stop * job.plan.compute.global_batch
    shares = micro_batches(order, job.plan.compute, position, executor.data_rank, executor.data_world)
    batches = [workload.data.batch(ids) for ids in shares]
    flops = count_flops(lambda: executor.rehearse(batches))
    recorder.event("flops", matmul=flops.matmul, attention=flops.attention)


def tell_failure(folder: Path, rank: int, error: Exception) -> None:
    """Leave for the launcher why this worker failed."""
    known = isinstance(error, DatahallError)
    told: dict[str, Any] = {
        "type": type(error).__name__,
        "what": error.what if known else f"{type(error).__name__}: {error}",
        "where": error.where if known else "",
        "hint": error.hint if known else "",
    }
    (folder / f"failed-{rank}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    status = main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking the interpreter and its libraries apart would cost about a second
