"""One process of a rehearsal: `python -m datahall.real.rehearsal_worker job.json rank`.  Started by `rehearsal`.

It takes steps and times them; what follows from its times is `calibrate.own_model`'s.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from datahall.base.workload import Workload
from datahall.compute.execute import DataParallel
from datahall.compute.execute_anatomy import read_anatomy, saved_bytes
from datahall.real.board import Board
from datahall.real.group import begin_together
from datahall.real.job import Job, load_job
from datahall.real.observe import count_flops, resident_bytes
from datahall.real.process import die_with_parent
from datahall.real.worker import tell_failure
from datahall.workloads import entry

_BUDGET_S, _LEAST_ROUNDS, _MOST_ROUNDS = 1.5, 5, 60


def main(path: str, rank: int) -> int:
    """Rehearse the job at `path`; returns the exit code."""
    job = load_job(Path(path))
    die_with_parent(job.parent)
    try:
        found = _rehearse(job, rank)
    except Exception as error:
        traceback.print_exc()
        tell_failure(job.folder, rank, error)
        return 1
    (job.folder / f"rehearsed-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


def _rehearse(job: Job, rank: int) -> dict[str, Any]:
    compute = job.plan.compute
    torch.set_num_threads(compute.threads)
    board = Board(job.folder / "board.bin", job.workers)
    board.note(rank, 0, "start")
    idle = resident_bytes()
    workload = entry.build(job.case, job.import_paths)
    built = resident_bytes() - idle
    executor = DataParallel(workload, compute, 0, torch.device("cpu"), None, alone=True)
    most = len(workload.data)
    sizes = sorted({max(1, compute.micro_batch // 2), min(most, 2 * compute.micro_batch)})
    batch = workload.data.batch([number % most for number in range(compute.micro_batch)])
    anatomy = read_anatomy(workload, compute, batch, compute.micro_batch, _counted)
    kept = [(size, *saved_bytes(workload.model, lambda size=size: _loss(executor, workload, size))) for size in sizes]
    begin_together(job.folder, rank, job.workers)
    board.note(rank, 0, "observe")
    timed = _timed(workload, executor, sizes)
    states = sum(tensor.numel() * tensor.element_size() for tensor in _states(executor))
    told = anatomy.to_json() | {"state_bytes": states / max(1, anatomy.parameters)}
    return {
        "anatomy": told,
        **timed,
        "saved": kept,
        "built_bytes": max(0, built),
        "processes": job.workers,
    }


def _timed(workload: Workload, executor: DataParallel, sizes: list[int]) -> dict[str, Any]:
    """Medians over rounds in which the sizes take turns: seconds of a step's gradients, of an update, of a sample.

    `accumulate_s` is what two micro-steps of the smallest size take more than two steps of one.
    """
    seen: dict[tuple[int, int], list[float]] = {(size, 1): [] for size in sizes} | {(sizes[0], 2): []}
    updates: list[float] = []
    inputs: list[float] = []
    until_s = time.monotonic() + _BUDGET_S
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.monotonic() > until_s:
            break
        for (size, micro_steps), taken in seen.items():
            times = [time.perf_counter()]
            batches = [workload.data.batch(_ids(workload, size, number + extra)) for extra in range(micro_steps)]
            times.append(time.perf_counter())
            executor.gradients(batches, micro_steps, lambda phase: None)
            times.append(time.perf_counter())
            executor.update()
            times.append(time.perf_counter())
            inputs.append((times[1] - times[0]) / size / micro_steps)
            taken.append(times[2] - times[1])
            updates.append(times[3] - times[2])
    middle = {key: median(values[1:]) for key, values in seen.items()}
    return {
        "steps": [(size, middle[size, 1]) for size in sizes],
        "accumulate_s": max(0.0, middle[sizes[0], 2] - 2.0 * middle[sizes[0], 1]),
        "update_s": median(updates[2:]),
        "input_s": median(inputs),
    }


def _ids(workload: Workload, size: int, number: int) -> list[int]:
    """Samples from all over the data, other ones in each round."""
    most = len(workload.data)
    return [(number * 7919 + index * 104729) % most for index in range(size)]


def _loss(executor: DataParallel, workload: Workload, size: int) -> torch.Tensor:
    return executor.loss_of(workload.data.batch(_ids(workload, size, 0)))


def _counted(work: Callable[[], Any]) -> tuple[int, int]:
    flops = count_flops(work)
    return flops.matmul, flops.attention


def _states(executor: DataParallel) -> list[torch.Tensor]:
    values = [value for state in executor.optimiser.state.values() for value in state.values()]
    return [value for value in values if isinstance(value, torch.Tensor)]


if __name__ == "__main__":
    status = main(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
