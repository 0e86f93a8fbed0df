"""One rank of the slow-link study: probes and trains on command (JSON lines in and out).  Used by slow_links.py.

The subject predicts the next byte of Python's standard library from 16 bytes: an MLP of 0.66 million parameters, so
that a plain exchange hurts on a slow link while three seeds end within minutes.  Validation is off the clock.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from datahall.network.compress import codec_of
from datahall.network.execute_compress import Exchange, LocalUpdates, install
from datahall.network.plan import NetworkPlan

CONTEXT, WIDTH, EMBEDDING, BYTES = 16, 512, 32, 256
BATCH, VALIDATION, EVALUATE_EVERY = 16, 1024, 8
BLOCK = 4096
LEARNING_RATE = 1e-3
LARGE_ELEMENTS = 500_000


class NextByte(torch.nn.Module):
    """Embedding of the last bytes, two hidden layers, logits of the next byte."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Embedding(BYTES, EMBEDDING),
            torch.nn.Flatten(),
            torch.nn.Linear(CONTEXT * EMBEDDING, WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(WIDTH, BYTES),
        )

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Logits for a batch of contexts."""
        return self.layers(context)


class Text:
    """Training and validation positions: every tenth block of the text is validation."""

    def __init__(self) -> None:
        files = sorted(Path(os.__file__).parent.glob("*.py"))
        data = bytearray(b"".join(path.read_bytes() for path in files)[:4_000_000])
        self.data = torch.frombuffer(data, dtype=torch.uint8).to(torch.int64)
        starts = torch.arange(len(self.data) - CONTEXT - 1)
        held_out = (starts // BLOCK) % 10 == 0
        self.train = starts[~held_out]
        positions = starts[held_out]
        chance = torch.Generator().manual_seed(1)
        self.validation = positions[torch.randperm(len(positions), generator=chance)[:VALIDATION]]

    def batch(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Contexts and the bytes that follow them."""
        return self.data[positions[:, None] + torch.arange(CONTEXT)], self.data[positions + CONTEXT]


def fresh(seed: int) -> NextByte:
    """A new model, the same on every rank."""
    torch.manual_seed(seed)
    return NextByte()


def update(model: Any, optimiser: torch.optim.Optimizer, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Forward, backward (with whatever DDP exchanges) and the optimiser's step."""
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimiser.step()


PREPARED: dict[str, Any] = {}


def prepare(order: dict[str, Any], rank: int, text: Text) -> dict[str, Any]:
    """Build the model; DDP hands rank 0's weights round here, before the counters are read."""
    plan = NetworkPlan(**order["plan"])
    model = fresh(order["seed"])
    wrapped, updates = model, None
    if plan.local_steps > 1:
        updates = LocalUpdates(model.parameters(), plan)
    else:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=plan.bucket_bytes / 2**20)
        install(wrapped, plan)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    PREPARED.update(model=model, wrapped=wrapped, updates=updates, optimiser=optimiser)
    return {}


def train(order: dict[str, Any], rank: int, text: Text) -> dict[str, Any]:
    """Train what was prepared until the validation loss is at most the target; seconds exclude validation."""
    model, updates = PREPARED["model"], PREPARED["updates"]
    chance = torch.Generator().manual_seed(1000 * order["seed"] + rank)
    context, target = text.batch(text.validation)
    curve, step_seconds = [], []
    for step in range(1, order["max_steps"] + 1):
        start = time.perf_counter()
        batch = _noisy_batch(text, chance, order.get("label_noise", 0.0))
        if rank == order.get("slow_rank", -1):
            time.sleep(order["slow_s"])
        update(PREPARED["wrapped"], PREPARED["optimiser"], batch)
        exchanged = updates.after_step(step) if updates else step % EVALUATE_EVERY == 0
        step_seconds.append(time.perf_counter() - start)
        if exchanged:
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(model(context), target).item()
            curve.append((step, sum(step_seconds), loss))
            if loss <= order["target"]:
                break
    weights = sum(p.detach().double().sum().item() for p in model.parameters())
    return {"steps": step, "seconds": sum(step_seconds), "curve": curve, "fingerprint": weights}


def _noisy_batch(text: Text, chance: torch.Generator, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    context, target = text.batch(text.train[torch.randint(len(text.train), (BATCH,), generator=chance)])
    if noise:
        wrong = torch.rand(BATCH, generator=chance) < noise
        target = torch.where(wrong, torch.randint(BYTES, (BATCH,), generator=chance), target)
    return context, target


def probe(order: dict[str, Any], rank: int, text: Text) -> dict[str, Any]:
    """Seconds of a step without exchange, of coding, and of small and large collectives; medians."""
    alone = [distributed.new_group([member]) for member in range(distributed.get_world_size())][rank]
    return {
        "compute_s": _compute_s(rank, text, alone),
        "codec_s": {name: _codec_s(NetworkPlan(**plan), alone) for name, plan in order["plans"].items()},
        **_collectives(),
    }


def _compute_s(rank: int, text: Text, alone: Any) -> float:
    model = fresh(0)
    wrapped = torch.nn.parallel.DistributedDataParallel(model, process_group=alone)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    chance = torch.Generator().manual_seed(rank)

    def one() -> None:
        update(wrapped, optimiser, text.batch(text.train[torch.randint(len(text.train), (BATCH,), generator=chance)]))

    return _median(one, 25)


def _codec_s(plan: NetworkPlan, alone: Any) -> float:
    model = fresh(0)
    if plan.local_steps > 1:
        return _median(LocalUpdates(model.parameters(), plan, alone).exchange, 7)
    if plan.compression == "none":
        return 0.0  # DDP's own copies are in the step without exchange
    shapes = [tuple(p.shape) for p in model.parameters()]
    exchange = Exchange(codec_of(plan), alone)
    values = torch.randn(sum(p.numel() for p in model.parameters()))
    return _median(lambda: exchange.start(0, values, shapes).wait(), 7)


def _collectives() -> dict[str, float]:
    small, large = torch.ones(8), torch.ones(LARGE_ELEMENTS)
    gathered = [torch.empty_like(small) for _ in range(distributed.get_world_size())]
    return {
        "small_reduce_s": _median(lambda: distributed.all_reduce(small), 11),
        "small_gather_s": _median(lambda: distributed.all_gather(gathered, small), 11),
    } | {"large_reduce_s": _median(lambda: distributed.all_reduce(large), 5), "large_bytes": 4 * LARGE_ELEMENTS}


def reduce(order: dict[str, Any], rank: int, text: Text) -> dict[str, Any]:
    """Only reductions of one size, so that the interface counters around them tell headers and answers."""
    values = torch.ones(order.get("elements", LARGE_ELEMENTS))
    start = time.perf_counter()
    for _ in range(order["times"]):
        distributed.all_reduce(values)
    return {"seconds": (time.perf_counter() - start) / order["times"], "bytes": values.nbytes * order["times"]}


def _median(action: Any, times: int) -> float:
    action()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Join the group, then obey one JSON order a line until the input ends."""
    rank, ranks, address, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    text = Text()
    distributed.init_process_group("gloo", init_method=f"tcp://{address}:{port}", rank=rank, world_size=ranks)
    print(json.dumps({"ready": rank}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        action = {"prepare": prepare, "train": train, "probe": probe, "reduce": reduce}[order["do"]]
        print(json.dumps(action(order, rank, text)), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
