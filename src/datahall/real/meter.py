"""Measure a PyTorch training loop that datahall did not launch.

    with datahall.meter("runs/mine", model) as meter:
        for batch in meter.batches(loader):        # optional: tells reading from computing, and counts samples
            loss = model(batch)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    print(meter.result)

A step ends with the optimiser's.  Reading is what lies between a step's end (or `batches`' own waiting) and the next
forward pass; the exchange of DDP is timed by a hook of ours unless the model has one.  Several processes (torchrun)
each write their log into the same folder, and the first one's `result` merges what is there.  One optimiser a step.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from datahall.base.errors import UsageError
from datahall.base.metric import exactly
from datahall.base.result import Result
from datahall.base.whole_file import write_text
from datahall.compute.execute import begin_sum
from datahall.real.device_clock import CudaClock
from datahall.real.measure import Step, read_steps
from datahall.real.observe import FlopWatch, MemoryWatch
from datahall.real.observe_collectives import CollectiveCounter
from datahall.real.record import Recorder
from datahall.real.summary import counts_of, run_metrics, step_metrics, view_rank

_MOST_BEFORE = 64  # workers of an earlier run in the same folder whose logs are taken away


class Meter:
    """Hooks on a model and on the optimiser's step, from `start` to `stop`; also a context."""

    def __init__(self, folder: str | Path, model: nn.Module, *, tokens_per_step: int = 0) -> None:
        self.folder = Path(folder)
        self.model = model
        self.tokens_per_step = tokens_per_step
        self.result: Result | None = None
        self.steps: tuple[Step, ...] = ()
        self.samples_per_step = 0  # where batches cannot be seen: what the trainer says
        self.told_of_updates = False  # gradients are computed inside of the optimiser's step: the trainer says when not
        self._samples = 0
        self._hooks: list[Any] = []

    def __enter__(self) -> Meter:
        return self.start()

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def start(self) -> Meter:
        """Begin to measure."""
        grouped = dist.is_available() and dist.is_initialized()
        self._rank, self._world = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
        self._recorder = _recorder(self.folder, self._rank, self._world)
        self._counter = CollectiveCounter()
        self._counter.watch()
        self._began_s = time.monotonic()
        device = next((weights.device for weights in self.model.parameters()), torch.device("cpu"))
        if device.type == "cuda":
            self._recorder.clock = CudaClock(device, self._recorder.now)
        self._memory = MemoryWatch(device)
        self._flops: FlopWatch | None = FlopWatch()
        self._hooks = [
            self.model.register_forward_pre_hook(self._forward),
            register_optimizer_step_pre_hook(self._optimiser),
            register_optimizer_step_post_hook(self._stepped),
        ]
        if isinstance(self.model, DistributedDataParallel):
            with suppress(RuntimeError):  # the model has a hook of its own: its exchange then counts as compute
                self.model.register_comm_hook(None, self._exchange)
        self._flops.start()
        self._begin_step()
        return self

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's batches; the time that the loop waits for them is reading."""
        iterator = iter(loader)
        while True:
            self.phase("input")
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.read(batch)
            yield batch

    def read(self, batch: Any) -> None:
        """A batch was read: count its samples (its first dimension).  `batches` does it by itself."""
        self._samples += _count(batch)

    def phase(self, name: str) -> None:
        """A phase of the step begins now: input, forward, backward, exchange or optimiser."""
        if self._phase != name:
            self._phase = name
            self._recorder.mark(name)

    def loss(self, value: float) -> None:
        """Note the loss of the step under way."""
        self._loss = value

    def stop(self) -> Result:
        """Take the hooks away and read the logs; the same schema as a run of datahall's own.

        The first process leaves it in `result.json`, for `datahall compare --log FOLDER PLAN`.
        """
        for hook in self._hooks:
            hook.remove()
        self._counter.release()
        self._end_flops()
        self._recorder.event(
            "trained", peak_bytes=self._memory.peak_bytes(), host_bytes=self._memory.host_bytes(), host=platform.node()
        )
        self._recorder.close()
        self.steps = read_steps(self.folder)
        self.result = self._read()
        if self._rank == 0:
            write_text(self.folder / "result.json", json.dumps(self.result.to_json(), indent=2) + "\n")
        return self.result

    def _read(self) -> Result:
        found = step_metrics(self.steps, view_rank(self.steps), self.tokens_per_step)
        found += [metric for metric in run_metrics(self.folder, self.steps) if metric.name != "startup"]
        found.append(exactly("total_time", "seconds", time.monotonic() - self._began_s))
        counts = counts_of(self.folder, self.steps, {}, 0)
        samples = self._samples or self.samples_per_step * len(self.steps)
        counts |= {"samples": samples, "tokens": self.tokens_per_step * len(self.steps)}
        notes = () if samples else ("samples were not counted: wrap the loader in meter.batches",)
        return Result("real", {metric.name: metric for metric in found}, counts, notes)

    def _begin_step(self) -> None:
        self._loss: float | None = None
        self._calls, self._bytes = self._counter.calls, self._counter.bytes
        self._cpu_s = time.process_time()
        self._phase = ""
        self.phase("input")

    def _forward(self, module: nn.Module, inputs: Any) -> None:
        self.phase("forward")

    def _optimiser(self, optimiser: Any, arguments: Any, named: Any) -> None:
        if not self.told_of_updates:
            self.phase("optimiser")

    def _stepped(self, optimiser: Any, arguments: Any, named: Any) -> None:
        self.phase("idle")
        self._end_flops()
        self._recorder.end_step(
            loss=self._loss,
            calls=self._counter.calls - self._calls,
            bytes=self._counter.bytes - self._bytes,
            cpu_s=round(time.process_time() - self._cpu_s, 6),
        )
        self._begin_step()

    def _exchange(self, state: Any, bucket):
        """The mean over workers, as DDP itself does it."""
        buffer = bucket.buffer().div_(self._world)
        if bucket.is_last():
            self.phase("exchange")
        handed_s = self._recorder.now()

        def arrived(future: Any) -> torch.Tensor:
            self._recorder.transfer(buffer.numel() * buffer.element_size(), handed_s, self._recorder.now())
            return future.value()[0]

        return begin_sum(buffer).then(arrived)

    def _end_flops(self) -> None:
        """FLOPs are counted in the first step, which is warming up and not timed."""
        if self._flops is not None:
            flops, self._flops = self._flops.stop(), None
            self._recorder.event("flops", matmul=flops.matmul, attention=flops.attention)


def _recorder(folder: Path, rank: int, world: int) -> Recorder:
    try:
        (folder / "workers").mkdir(parents=True, exist_ok=True)
        for old in (rank, *(range(world, _MOST_BEFORE) if rank == 0 else ())):  # and of a run with more workers
            for name in (f"{old}.jsonl", f"loader-{old}.jsonl"):
                (folder / "workers" / name).unlink(missing_ok=True)
        return Recorder(folder, rank, world, 0, time.monotonic() if world == 1 else 0.0)
    except OSError as error:
        raise UsageError(
            f"the meter cannot write here: {error.strerror}.", where=str(folder), hint="Give another folder."
        ) from error


def _count(batch: Any) -> int:
    if isinstance(batch, torch.Tensor):
        return batch.shape[0] if batch.dim() else 1
    if isinstance(batch, dict):
        return _count(next(iter(batch.values()), None))
    if isinstance(batch, list | tuple) and batch:
        return _count(batch[0])
    return 1
