"""datahall's DDP, FSDP and pipeline steps against plain hand-written PyTorch steps, two workers, alternating.

    python benchmarks/split_overhead.py [--pairs 60] [--out docs/tables/split-overhead.md]

Both loops of a split live in the same processes and take turns, one step each, in random order, so that whatever else
the machine does hits both alike.  Datahall's loop marks phases, logs samples and events and counts collectives; the
plain loop does none of that.  Printed is the median of the ratios of pairs, wall and CPU, with its bootstrap 95 %
interval.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from loop_overhead import MICRO_BATCH, SEQUENCE, SHAPE, Ours, Plain, summary
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from datahall.case.local import guessed_site
from datahall.case.question import Case, Goal, Training
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.real.process import die_with_parent, worker_environment
from datahall.storage.order import Order
from datahall.storage.plan import StoragePlan
from datahall.workloads import language_model

WORKERS, WARM_UP, BAR = 2, 5, 1.02
SPLITS = {
    "DDP": ComputePlan(data=2, micro_batch=MICRO_BATCH, precision="fp32"),
    "FSDP (ZeRO-3)": ComputePlan(data=2, zero_stage=3, micro_batch=MICRO_BATCH, precision="fp32"),
    "pipeline (1F1B)": ComputePlan(pipeline=2, micro_batch=MICRO_BATCH // 2, accumulation=4, precision="fp32"),
}


class PlainSharded:
    """FSDP2 as its tutorial has it."""

    def __init__(self, case: Case, rank: int) -> None:
        workload = language_model.build(case)
        mesh = init_device_mesh("cpu", (WORKERS,))
        self.model, self.data, self.rank = workload.model, workload.data, rank
        self.order = Order([len(workload.data)], 0)
        for block in self.model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimiser = _adam(self.model)

    def step(self, number: int) -> float:
        batch = MICRO_BATCH * WORKERS
        mine = self.order.batch(number * batch, batch, self.rank, WORKERS)
        loss = language_model.next_token_loss(self.model, self.data.batch(mine))
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return loss.item()


class PlainPipeline:
    """Two stages under 1F1B, as the tutorial of torch.distributed.pipelining has it."""

    def __init__(self, case: Case, rank: int) -> None:
        workload = language_model.build(case)
        half = SHAPE.layers // WORKERS
        part = language_model.LanguageModelPart(workload.model, rank * half, (rank + 1) * half)
        stage = PipelineStage(part, rank, WORKERS, torch.device("cpu"))
        self.schedule = Schedule1F1B(stage, 4, loss_fn=language_model.token_cross_entropy)
        self.data, self.rank, self.optimiser = workload.data, rank, _adam(part)
        self.order = Order([len(workload.data)], 0)

    def step(self, number: int) -> float:
        size = MICRO_BATCH * WORKERS
        batch = self.data.batch(self.order.batch(number * size, size))
        losses: list[torch.Tensor] = []
        if self.rank == 0:
            self.schedule.step(batch[:, :-1], return_outputs=False)
        else:
            self.schedule.step(target=batch[:, 1:], losses=losses, return_outputs=False)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return sum(loss.item() for loss in losses)


def measure(rank: int, split: str, pairs: int, folder: Path) -> None:
    """One process: alternate, and write the seconds of each pair."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=WORKERS)
    case = Case("bench", SHAPE, Training(1e6, MICRO_BATCH * WORKERS, SEQUENCE), guessed_site()[0], Goal())
    plan = Plan(SPLITS[split], StoragePlan(), NetworkPlan(), case.hash())
    plain = {
        "DDP": lambda: Plain(case, rank, WORKERS),
        "FSDP (ZeRO-3)": lambda: PlainSharded(case, rank),
        "pipeline (1F1B)": lambda: PlainPipeline(case, rank),
    }[split]()
    ours = Ours(case, plan, folder, rank, WORKERS)
    ours.counter.release()
    order = random.Random(0)  # the same order on every worker
    taken = [_pair(plain, ours, number, order) for number in range(WARM_UP + pairs)]
    (folder / f"pairs-{rank}.json").write_text(json.dumps(taken[WARM_UP:]))


def _pair(plain: Any, ours: Ours, number: int, order: random.Random) -> dict[str, tuple[float, float]]:
    pair: dict[str, tuple[float, float]] = {}
    loops: list[tuple[str, Any]] = [("plain", plain), ("ours", ours)]
    order.shuffle(loops)
    for name, one in loops:
        if name == "ours":
            ours.counter.watch()
        dist.barrier()
        wall, cpu = time.perf_counter(), time.process_time()
        one.step(number)
        pair[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        ours.counter.release()
    return pair


def _adam(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def compare(split: str, pairs: int) -> dict[str, Any]:
    """Ratios of one split, by the worker that is the slower one to show (the last)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "workers").mkdir()
        command = [sys.executable, __file__, "--split", split, "--pairs", str(pairs), "--folder", name, "--rank"]
        environment = worker_environment(threads=1, interface="lo")
        processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(WORKERS)]
        if any([process.wait() for process in processes]):
            sys.exit(1)
        return summary(json.loads((folder / f"pairs-{WORKERS - 1}.json").read_text()))


def table(found: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| split | pairs | wall ratio (95 %) | CPU ratio (95 %) | plain, datahall in ms | median at most 1.02 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for split, one in found.items():
        wall, cpu = one["wall"], one["cpu"]
        ratios = [f"{each['ratio']:.3f} ({each['low']:.3f} to {each['high']:.3f})" for each in (wall, cpu)]
        times = f"{wall['plain_s'] * 1e3:.1f}, {wall['ours_s'] * 1e3:.1f}"
        verdict = "yes" if wall["ratio"] <= BAR else "no"
        lines.append(f"| {split} | {one['pairs']} | {ratios[0]} | {ratios[1]} | {times} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark, or be one of its processes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=60)
    options.add_argument("--out", type=Path)
    options.add_argument("--split", choices=SPLITS, help="One split only.")
    options.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.rank is not None:
        die_with_parent(os.getppid())
        measure(given.rank, given.split, given.pairs, given.folder)
        return
    load = os.getloadavg()[0]
    found = {split: compare(split, given.pairs) for split in ([given.split] if given.split else SPLITS)}
    text = table(found) + (
        f"\nTwo workers, one thread each; language model of {SHAPE.parameters() / 1e6:.1f} M parameters, fp32; "
        f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after.\n"
    )
    print(text, end="")
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
