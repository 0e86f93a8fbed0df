"""One training of the digits on one engine, measured: samples a second, samples read, losses, test accuracy.

Nothing is forecast or restarted here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datahall.base.errors import UsageError
from datahall.case.question import Case
from datahall.real.engines.input import check_shares
from datahall.real.engines.launcher import carry_out
from datahall.real.engines.task import Task
from datahall.workloads.digits_images import fetch

UNTIMED_STEPS = 5
IMAGES = 4000


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training.

    `samples_per_s` is of all workers together, after the steps in which engines compile.  `samples_read` counts the
    loader's logs of all workers, `different_samples` how many images were among them; `input_share` is the loader's
    share of the timed seconds of the slowest worker.  `losses` are the global batch's, a number a step; `right` of
    `tested` test images were classified rightly.
    """

    engine: str
    workers: int
    threads: int
    batch: int
    steps: int
    samples_per_s: float
    seconds: float
    input_share: float
    samples_read: int
    different_samples: int
    losses: tuple[float, ...]
    right: int
    tested: int
    folder: Path

    @property
    def accuracy(self) -> float:
        """Share of the test images that are classified rightly."""
        return self.right / self.tested


def train(
    case: Case,
    engine: str,
    folder: Path,
    *,
    workers: int = 1,
    batch: int = 0,
    steps: int = 0,
    threads: int = 1,
    port: int = 0,
    open_ports: bool = False,
    keep_weights: bool = False,
) -> Trained:
    """Train the digits of `case` on `engine`; working files stay in `folder`.

    `batch` and `steps` are the case's if 0.  UsageError, Incompatible or WorldFailed, as `launcher.carry_out` and
    `input.check_shares` raise them.
    """
    batch = batch or case.application.global_batch
    steps = steps or steps_of(case, batch)
    check_shares(batch, workers, IMAGES)
    task = Task(
        kind="train",
        engine=engine,
        folder=folder,
        digits=fetch(),
        widths=widths(case),
        seed=case.application.seed,
        workers=workers,
        threads=threads,
        batch=batch,
        steps=steps,
        untimed_steps=min(UNTIMED_STEPS, steps - 1),
        keep_weights=keep_weights,
    )
    carry_out(task, port, open_ports=open_ports)
    return _measured(task)


def steps_of(case: Case, batch: int) -> int:
    """Steps of `batch` images in which the case's number of images is read, rounded up."""
    return max(2, -int(-case.application.tokens // batch))


def widths(case: Case) -> tuple[int, ...]:
    """The network's layers from the image to the classes; UsageError if it is no network for the digits."""
    shape = case.model
    if shape.layers != 1 or shape.hidden != 784 or shape.vocab != 10 or case.application.optimiser != "adam":
        raise UsageError(
            f"{shape.name} is no network that every engine here has.",
            where="model",
            hint="hidden: 784, layers: 1, vocab: 10, any ffn, optimiser: adam; others train by `datahall run`.",
        )
    return shape.hidden, shape.ffn, shape.vocab


def _measured(task: Task) -> Trained:
    told = [json.loads((task.folder / f"result-{rank}.json").read_text()) for rank in range(task.workers)]
    read = [np.load(task.folder / f"read-{rank}.npy", allow_pickle=False) for rank in range(task.workers)]
    seconds = max(one["ended_s"] for one in told) - min(one["began_s"] for one in told)
    timed = sum(one[task.untimed_steps :].size for one in read)
    return Trained(
        engine=task.engine,
        workers=task.workers,
        threads=task.threads,
        batch=task.batch,
        steps=len(read[0]),
        samples_per_s=timed / seconds,
        seconds=seconds,
        input_share=max(one["input_s"] / (one["ended_s"] - one["began_s"]) for one in told),
        samples_read=sum(one.size for one in read),
        different_samples=len(np.unique(np.concatenate([one.ravel() for one in read]))),
        losses=tuple(np.mean([one["losses"] for one in told], axis=0).tolist()),
        right=told[0]["right"],
        tested=told[0]["tested"],
        folder=task.folder,
    )
