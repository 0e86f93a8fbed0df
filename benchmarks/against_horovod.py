"""Horovod against DistributedDataParallel: the same network, batches, first weights and Adam, on two workers.

    python benchmarks/against_horovod.py [--pairs 40] [--workers 2] [--batch 64 --batch 512]

Both live in the same processes and take turns, 20 steps each, in random order, so that whatever else the machine does
hits both alike.  Printed are the medians, the median ratio of pairs with its bootstrap 95 % interval, and how far the
weights lie apart in the end.  Horovod is no dependency of datahall: docs/verdicts.md says how to build it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from datahall.real.engines.input import Loader
from datahall.real.process import worker_environment
from datahall.workloads.digits import LEARNING_RATE, network
from datahall.workloads.digits_images import Digits, digits, first_weights

WIDTHS, STEPS, WARM_UP = (784, 256, 10), 20, 2


class Side:
    """One of the two, with its own network, optimiser and place in the order of batches."""

    def __init__(self, hvd: Any, found: Digits, batch: int, rank: int, workers: int) -> None:
        self.network = network(first_weights(0, WIDTHS))
        self.loader = Loader(found.images, found.classes, 0, batch, rank, workers)
        self.optimiser: Any = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        self.model: Any = self.network
        if hvd is None:
            self.model = DistributedDataParallel(self.network, gradient_as_bucket_view=True)
        else:
            self.optimiser = hvd.DistributedOptimizer(self.optimiser, named_parameters=self.network.named_parameters())
        self.at = 0

    def block(self) -> float:
        """Seconds a step over the next steps."""
        dist.barrier()
        began_s = time.perf_counter()
        for _ in range(STEPS):
            images, classes = self.loader.share(self.at)
            self.optimiser.zero_grad()
            functional.cross_entropy(self.model(torch.from_numpy(images)), torch.from_numpy(classes)).backward()
            self.optimiser.step()
            self.at += 1
        return (time.perf_counter() - began_s) / STEPS


def work(folder: Path, pairs: int, batch: int) -> None:
    """One worker, started by Horovod's launcher."""
    hvd: Any = importlib.import_module("horovod.torch")
    torch.set_num_threads(1)
    hvd.init()
    rank, workers = hvd.rank(), hvd.size()
    dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=workers)
    found = digits()
    sides = {"ddp": Side(None, found, batch, rank, workers), "horovod": Side(hvd, found, batch, rank, workers)}
    order = random.Random(0)  # the same on every worker
    taken: list[dict[str, float]] = []
    for _ in range(WARM_UP + pairs):
        names = list(sides)
        order.shuffle(names)
        taken.append({name: sides[name].block() for name in names})
    if rank == 0:
        flat = [torch.cat([one.detach().ravel() for one in side.network.parameters()]) for side in sides.values()]
        apart = float((flat[0] - flat[1]).norm() / flat[0].norm())
        (folder / "told.json").write_text(json.dumps({"pairs": taken[WARM_UP:], "apart": apart}))
    dist.barrier()


def compare(workers: int, pairs: int, batch: int) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "--network-interfaces", "lo"]
        command += ["-np", str(workers), sys.executable, __file__, "--folder", name, "--pairs", str(pairs)]
        done = subprocess.run(
            [*command, "--batch", str(batch)],
            env=worker_environment(1, "lo"),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"Horovod's workers failed:\n{(done.stdout + done.stderr)[-2000:]}")
        told = json.loads((Path(name) / "told.json").read_text())
    ddp, other = (np.array([pair[side] for pair in told["pairs"]]) for side in ("ddp", "horovod"))
    ratios = other / ddp
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    rates = [batch / float(np.median(seconds)) for seconds in (ddp, other)]
    return (
        f"| {batch} | {rates[0]:,.0f} | {rates[1]:,.0f} | {float(np.median(ratios)):.2f} | {low:.2f} to {high:.2f} | "
        f"{told['apart']:.1e} |"
    )


def main() -> None:
    """Compare and print the table, or be a worker."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=40)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--batch", type=int, action="append")
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.folder:
        work(given.folder, given.pairs, given.batch[0])
        return
    if importlib.util.find_spec("horovod") is None:
        sys.exit("Horovod is not installed, and no release installs with this PyTorch as it is: see docs/verdicts.md.")
    load, began_s = os.getloadavg()[0], time.monotonic()
    lines = []
    for batch in given.batch or [64, 512]:
        print(f"batch {batch}", file=sys.stderr)
        lines.append(compare(given.workers, given.pairs, batch))
    print("# Horovod against DistributedDataParallel\n")
    print(
        f"`python benchmarks/against_horovod.py`: {given.workers} workers on {os.cpu_count()} cores, one thread each, "
        f"{given.pairs} pairs of {STEPS} steps in turn, load {load:.1f} before and {os.getloadavg()[0]:.1f} after, "
        f"{time.monotonic() - began_s:.0f} s in all; PyTorch {torch.__version__}, both over gloo on the loopback.\n"
    )
    print("| batch | DDP, samples/s | Horovod, samples/s | seconds, Horovod over DDP | 95 % interval | weights apart |")
    print("|---:|---:|---:|---:|---:|---:|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
