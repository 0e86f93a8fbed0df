"""The program of one worker of any engine: `python -m datahall.real.engines.worker TASK RANK`.

It trains or probes, and writes what happened beside the task: seconds on the machine's monotonic clock, losses, and the
loader's log.  It decides nothing and estimates nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from datahall.real.engines.engine import Engine, Team, load
from datahall.real.engines.input import Loader
from datahall.real.engines.task import Task, load_task, save_weights
from datahall.real.process import die_with_parent
from datahall.workloads.digits_images import Digits, digits, first_weights

_POLL_S, _LEAVE_S = 0.01, 0.3


def main() -> None:
    """Be worker RANK of TASK."""
    task, rank = load_task(Path(sys.argv[1])), int(sys.argv[2])
    die_with_parent(task.parent)
    found = digits(task.digits)
    team = Team(rank, task.workers, task.threads, task.addresses, str((task.folder / "rendezvous").resolve()))
    engine = load(task.engine)(team, first_weights(task.seed, task.widths))
    told = train(task, rank, engine, found) if task.kind == "train" else probe(task, rank, engine, found)
    (task.folder / f"result-{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    _leave(task, rank, engine)


def train(task: Task, rank: int, engine: Engine, found: Digits) -> dict[str, Any]:
    """The whole training; the seconds are those after the untimed steps."""
    loader = Loader(found.images, found.classes, task.seed, task.batch, rank, task.workers)
    losses = [engine.step(*loader.share(step)) for step in range(task.untimed_steps)]
    engine.finish()
    began_s, input_s = time.monotonic(), 0.0
    for step in range(task.untimed_steps, task.steps):
        asked_s = time.perf_counter()
        share = loader.share(step)
        input_s += time.perf_counter() - asked_s
        losses.append(engine.step(*share))
    engine.finish()
    ended_s = time.monotonic()
    loader.save(task.folder / f"read-{rank}.npy")
    if task.keep_weights and rank == 0:
        save_weights(task.folder / "weights.npz", engine.layers())
    right = engine.scores(found.test_images).argmax(1) == found.test_classes
    return {
        "began_s": began_s,
        "ended_s": ended_s,
        "input_s": input_s,
        "losses": [float(np.asarray(loss)) for loss in losses],
        "right": int(right.sum()),
        "tested": len(right),
    }


def probe(task: Task, rank: int, engine: Engine, found: Digits) -> dict[str, Any]:
    """Seconds a step for each size of share, in blocks that take turns, and of the engine's exchange alone."""
    loaders = {
        size: Loader(found.images, found.classes, task.seed, size * task.workers, rank, task.workers)
        for size in task.sizes
    }
    timed: list[dict[str, float]] = []
    for block in range(-1, task.blocks):  # the first block is for compilers and caches
        for size, loader in loaders.items():
            _take_steps(engine, loader, 2)
            began_s = time.perf_counter()
            _take_steps(engine, loader, task.steps_a_block)
            step_s = (time.perf_counter() - began_s) / task.steps_a_block
            timed.append({"block": block, "size": size, "step_s": step_s})
    exchange_s: list[float] = []
    for _ in range(task.blocks + 1):
        began_s = time.perf_counter()
        for _ in range(task.steps_a_block):
            engine.exchange()
        exchange_s.append((time.perf_counter() - began_s) / task.steps_a_block)
    return {"steps": [one for one in timed if one["block"] >= 0], "exchange_s": exchange_s[1:]}


def _take_steps(engine: Engine, loader: Loader, steps: int) -> None:
    for step in range(steps):
        engine.step(*loader.share(step))
    engine.finish()


def _leave(task: Task, rank: int, engine: Engine) -> None:
    """End when all have their results, the first a little later, since the others hang on its servers.

    Without the interpreter's own end: engines take down their threads in an order that now and then aborts.
    """
    while not all((task.folder / f"result-{other}.json").exists() for other in range(task.workers)):
        time.sleep(_POLL_S)
    engine.close()
    if rank == 0 and task.workers > 1:
        time.sleep(_LEAVE_S)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
