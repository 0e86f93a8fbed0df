"""When a run writes checkpoints, and how it goes on from one; the bytes are the storage room's business.

A checkpoint of step n has n completed steps behind it.  It keeps weights, the optimiser's state and the position in the
data; random numbers follow from the step and the seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist

from datahall.base.errors import Refused
from datahall.compute.execute import Executor
from datahall.real.injection import Throttle
from datahall.real.job import Job
from datahall.real.record import Recorder
from datahall.storage.execute import Loaded, load, save
from datahall.storage.execute_async import BackgroundSaver, Pending
from datahall.storage.order import Order
from datahall.storage.place import open_place
from datahall.storage.store import committed_steps


class Checkpoints:
    """The checkpoints of one worker's run, in the loop or in the background as the plan says."""

    def __init__(self, job: Job, executor: Executor, recorder: Recorder, order: Order) -> None:
        self.job, self.executor, self.recorder, self.order = job, executor, recorder, order
        self.position = 0
        self.plan = job.plan.storage
        self.path = checkpoint_folder(job.folder)
        self.throttle = _throttle(job)
        self.options = _options(job)
        self.saver = self._saver() if self.plan.asynchronous else None
        self.pending: tuple[Pending, float] | None = None

    def resume(self) -> int:
        """Take over the newest whole checkpoint and its `position`; the steps that it has behind it, 0 without one."""
        if not committed_steps(open_place(self.path)):
            return 0
        state = self.executor.tensors(complete=True)
        loaded = load(self.path, state)
        self.executor.restore(state)
        for step, fault in loaded.skipped:
            self.recorder.event("damaged", step=step, fault=fault)
        self.position = self._position(loaded)
        return loaded.step

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs after `step` completed steps."""
        interval = self.plan.interval_steps
        at_stop = self.job.checkpoint_at_stop and step == self.job.stop
        return at_stop or (interval > 0 and step % interval == 0)

    def commit(self, step: int, position: int) -> None:
        """Write a checkpoint: on return it is committed on all workers, or under way if written in the background.

        `position` is of the data: the samples that all workers together have read.
        """
        began_s = self.recorder.now()
        extras = {"position": position, "order": self.order.identity()}
        if self.saver is not None:
            self._settle()
            self.pending = (self.saver.save(step, self.executor.tensors(), extras, replace=True), began_s)
            return
        saved = save(
            self.path,
            step,
            self.executor.tensors(),
            extras=extras,
            replace=True,
            **self.options,
        )
        self._written(saved.stored_bytes)
        if dist.is_initialized():
            dist.barrier()
        self._say(step, saved.stored_bytes, self.recorder.now() - began_s)

    @property
    def copying(self) -> bool:
        """Whether a checkpoint under way still needs the state as it is."""
        return self.saver is not None and self.saver.copying

    def before_update(self) -> None:
        """Return when the state may change."""
        if self.saver is not None:
            self.saver.before_update()

    def finish(self) -> None:
        """Wait for a checkpoint that is still being written."""
        if self.saver is not None:
            self._settle()

    def _position(self, loaded: Loaded) -> int:
        """Where the data are read on; Refused where they are no longer those of the checkpoint."""
        extras: dict[str, Any] = loaded.extras or {}
        if extras.get("order", self.order.identity()) != self.order.identity():
            raise Refused(
                f"the checkpoint of step {loaded.step} has read other data, or in another order.",
                where=str(self.path),
                hint="Go on with the same data and seed, or begin a run of its own.",
            )
        return extras.get("position", loaded.step * self.job.plan.compute.global_batch)

    def _saver(self) -> BackgroundSaver:
        saver = BackgroundSaver(self.path, **self.options)
        saver.follow(self.executor.optimiser)
        saver.prepare(self.executor.tensors(complete=True))
        return saver

    def _settle(self) -> None:
        """The background save before this one is over, and a slow disk is free again."""
        if self.pending is None:
            return
        (pending, began_s), self.pending = self.pending, None
        saved = pending.wait()
        self._written(saved.stored_bytes)
        self._say(pending.step, saved.stored_bytes, saved.seconds, began_s=began_s)

    def _written(self, count: int) -> None:
        """A slow disk takes longer than the real one for what was written."""
        if self.throttle is not None:
            self.throttle.send(count)

    def _say(self, step: int, count: int, seconds: float, **data: float) -> None:
        if self.recorder.rank == 0:
            self.recorder.event("checkpoint", step=step, bytes=count, seconds=round(seconds, 6), **data)


def checkpoint_folder(folder: Path) -> Path:
    """Where the checkpoints of the run in `folder` are."""
    return folder / "checkpoints"


def _options(job: Job) -> dict[str, Any]:
    """How the plan says that each checkpoint is written, with what the case allows."""
    plan, application = job.plan.storage, job.case.application
    return {
        "codec": plan.codec,
        "allow_loss": plan.codec == f"lossy-{application.lossy_checkpoint}",
        "shards": plan.shards,
        "keep": plan.keep,
        "run": {"seed": application.seed, "workers": job.workers, "case": job.case.hash()},
    }


def _throttle(job: Job) -> Throttle | None:
    slow = job.injection if job.injection is not None and job.injection.kind == "slow-disk" else None
    return Throttle(slow.bytes_per_s, slow.latency_s) if slow else None
