"""datahall's training loop against a plain hand-written PyTorch loop of the same step.

    python benchmarks/loop_overhead.py [--workers 1|2] [--pairs 200] [--out FILE]

Both loops live in the same processes and take turns, one step each, in random order, so that whatever else the machine
does hits both alike.  Datahall's loop marks phases, logs samples and events, and counts collectives; the plain loop
does none of that.  Printed are the median of the ratios of pairs (wall and CPU) and its bootstrap 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.compute import execute
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real import loop
from datahall.real.checkpoint import Checkpoints
from datahall.real.exchange import TimedExchange
from datahall.real.job import Job
from datahall.real.observe_collectives import CollectiveCounter
from datahall.real.process import die_with_parent, worker_environment
from datahall.real.record import Recorder
from datahall.storage.order import Order
from datahall.storage.plan import StoragePlan
from datahall.workloads import language_model

SHAPE = ModelShape("bench", layers=4, hidden=256, heads=8, kv_heads=4, head_dim=32, ffn=704, vocab=256)
MICRO_BATCH, SEQUENCE, WARM_UP = 4, 128, 5


class Plain:
    """What a careful person writes in twenty lines."""

    def __init__(self, case: Case, rank: int, workers: int) -> None:
        workload = language_model.build(case)
        self.model = workload.model
        if workers > 1:
            self.model = DistributedDataParallel(workload.model, gradient_as_bucket_view=True)
        self.data, self.order = workload.data, Order([len(workload.data)], 0)
        self.optimiser = torch.optim.AdamW(
            workload.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self.rank, self.workers = rank, workers

    def step(self, number: int) -> float:
        batch = MICRO_BATCH * self.workers
        mine = self.order.batch(number * batch, batch, self.rank, self.workers)
        loss = language_model.next_token_loss(self.model, self.data.batch(mine))
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item()


class Ours:
    """Datahall's loop, asked for one step at a time."""

    def __init__(self, case: Case, plan: Plan, folder: Path, rank: int, workers: int) -> None:
        self.job = Job(case, plan, folder, 0, workers, 0, time.monotonic(), os.getppid(), "")
        self.recorder = Recorder(folder, rank, workers, 0, self.job.origin_s)
        self.workload = language_model.build(case)
        self.executor = execute.prepare(
            self.workload,
            plan.compute,
            bucket_bytes=plan.network.bucket_bytes,
            device=torch.device("cpu"),
            exchange=TimedExchange(self.recorder, None),
        )
        self.counter = CollectiveCounter()
        self.counter.watch()
        self.checkpoints = Checkpoints(self.job, self.executor, self.recorder, Order([len(self.workload.data)], 0))

    def step(self, number: int) -> None:
        job = replace(self.job, stop=number + 1)
        loop.train(job, self.workload, self.executor, self.recorder, self.counter, self.checkpoints, number)


def measure(rank: int, workers: int, pairs: int, folder: Path) -> None:
    """One process: alternate, and write the seconds of each pair."""
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=workers)
    batch = MICRO_BATCH * workers
    case = Case("bench", SHAPE, Training(1e6, batch, SEQUENCE), guessed_site()[0], Goal())
    plan = Plan(
        ComputePlan(data=workers, micro_batch=MICRO_BATCH, precision="fp32"), StoragePlan(), NetworkPlan(), case.hash()
    )
    plain, ours = Plain(case, rank, workers), Ours(case, plan, folder, rank, workers)
    order = random.Random(0)  # the same order on every worker
    taken: list[dict[str, tuple[float, float]]] = []
    for number in range(WARM_UP + pairs):
        pair: dict[str, tuple[float, float]] = {}
        loops = [("plain", plain), ("ours", ours)]
        order.shuffle(loops)
        for name, one in loops:
            if workers > 1:
                dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            one.step(number)
            pair[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        taken.append(pair)
    (folder / f"pairs-{rank}.json").write_text(json.dumps(taken[WARM_UP:]))


def summary(pairs: list[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    """Median ratios of wall and CPU time with their bootstrap intervals."""
    found: dict[str, Any] = {"pairs": len(pairs)}
    for index, name in enumerate(("wall", "cpu")):
        ratios = np.array([pair["ours"][index] / pair["plain"][index] for pair in pairs])
        draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
        low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
        found[name] = {
            "ratio": float(np.median(ratios)),
            "low": float(low),
            "high": float(high),
            "plain_s": statistics.median(pair["plain"][index] for pair in pairs),
            "ours_s": statistics.median(pair["ours"][index] for pair in pairs),
        }
    return found


def main() -> None:
    """Run the benchmark, or be one of its processes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--pairs", type=int, default=200)
    options.add_argument("--out", type=Path)
    options.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.rank is not None:
        die_with_parent(os.getppid())
        measure(given.rank, given.workers, given.pairs, given.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "workers").mkdir()
        command = [sys.executable, __file__, "--workers", str(given.workers), "--pairs", str(given.pairs)]
        command += ["--folder", str(folder)]
        environment = worker_environment(threads=1, interface="lo")
        load = os.getloadavg()[0]
        processes = [
            subprocess.Popen([*command, "--rank", str(rank)], env=environment) for rank in range(given.workers)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            sys.exit(1)
        pairs = json.loads((folder / "pairs-0.json").read_text())
    found = {"workers": given.workers, "load_before": load, "load_after": os.getloadavg()[0], **summary(pairs)}
    for name in ("wall", "cpu"):
        one = found[name]
        print(
            f"{name:5} ratio {one['ratio']:.4f}  95 % interval {one['low']:.4f} to {one['high']:.4f}  "
            f"plain {one['plain_s'] * 1e3:.2f} ms, datahall {one['ours_s'] * 1e3:.2f} ms a step"
        )
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
