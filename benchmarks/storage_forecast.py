"""How well writing and reading are forecast: a sweep, half of it to fit on, the other half to be judged by.

    python benchmarks/storage_forecast.py FOLDER [--count 90] [--out docs/tables/storage-forecast.md]

Swept: size, shards, codec, tier (memory, the disk under FOLDER, a link of 200 MB/s), clients (processes that save or
load at the same time, each its own state) and direction.  The constants (latency, rates
of a stream and of the whole tier, a codec's rate per thread, overlap, cores) are fitted to half of the configurations;
the forecast is `estimate.coded_s` with them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from storage_shaped import shaped

from datahall.storage import execute
from datahall.storage.estimate import coded_s
from datahall.storage.execute_probe import forget

FORK = multiprocessing.get_context("fork")
LINK_BYTES_PER_S = 200e6
CODECS = ("none", "zstd", "planes")
TIERS = ("memory", "disk", "link")
DIRECTIONS = ("write", "read")


@dataclass(frozen=True)
class Setting:
    """One configuration of the sweep."""

    megabytes: int
    shards: int
    codec: str
    tier: str
    clients: int
    direction: str

    @property
    def raw_bytes(self) -> int:
        """What one client holds."""
        return self.megabytes * 10**6


@cache
def state_of(megabytes: int) -> dict[str, torch.Tensor]:
    """bf16 weights as eight tensors; drawn once, and shared with the processes that are forked."""
    generator = torch.Generator().manual_seed(1)
    each = megabytes * 10**6 // 16
    return {f"w{n}": torch.empty(each).normal_(0, 0.02, generator=generator).bfloat16() for n in range(8)}


def _client(setting: Setting, folder: str, rounds: int, gate: Any, told: Any) -> None:
    torch.set_num_threads(1)
    state = state_of(setting.megabytes)
    target = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    link = shaped(LINK_BYTES_PER_S / setting.clients) if setting.tier == "link" else nullcontext()
    with link:
        for number in range(rounds):
            if setting.direction == "read":
                execute.save(folder, number, state, codec=setting.codec, shards=setting.shards)
                if setting.tier == "disk":
                    forget(folder)
            gate.wait()
            began = time.perf_counter()
            if setting.direction == "write":
                execute.save(folder, number, state, codec=setting.codec, shards=setting.shards)
            else:
                execute.load(folder, target, step=number)
            told.put((number, time.perf_counter() - began))
            gate.wait()
            shutil.rmtree(folder, ignore_errors=True)


def measure(setting: Setting, roots: dict[str, Path], rounds: int) -> float:
    """Seconds of the slowest client, the median of the rounds."""
    state_of(setting.megabytes)
    gate, told = FORK.Barrier(setting.clients), FORK.Queue()
    folders = [str(roots[setting.tier] / f"client{n}") for n in range(setting.clients)]
    clients = [FORK.Process(target=_client, args=(setting, folder, rounds, gate, told)) for folder in folders]
    for client in clients:
        client.start()
    entries = [told.get(timeout=120) for _ in range(rounds * setting.clients)]
    for client in clients:
        client.join()
    return statistics.median(max(s for number, s in entries if number == n) for n in range(rounds))


def ratios() -> dict[str, float]:
    """Raw over stored bytes by codec, from a sample."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS:
            saved = execute.save(f"{folder}/{codec}", 1, state_of(24), codec=codec)
            found[codec] = saved.raw_bytes / saved.stored_bytes
    return found


NAMES = [
    *(f"latency {tier} {way}" for tier in TIERS for way in DIRECTIONS),
    *(f"{kind} disk {way}" for kind in ("stream", "tier") for way in DIRECTIONS),
    *(f"codec {codec} {way}" for codec in CODECS for way in DIRECTIONS),
    "overlap",
    "cores",
]
START = [5e-3, 5e-3, 1e-2, 5e-3, 5e-3, 5e-3, 7e8, 7e8, 1.5e9, 1.5e9, 1.5e9, 2e9, 4e8, 6e8, 2.5e8, 6e8, 0.3, 1.8]


def forecast(constants: dict[str, float], settings: list[Setting], ratio: dict[str, float]) -> np.ndarray:
    """Seconds of each setting."""

    def column(name: str) -> np.ndarray:
        return np.array([constants.get(name.format(s=s), np.inf) for s in settings])

    shards = np.array([s.shards for s in settings])
    clients = np.array([s.clients for s in settings])
    threads = np.minimum(shards * clients, constants["cores"]) / clients
    link = np.array([LINK_BYTES_PER_S if s.tier == "link" else np.inf for s in settings])
    return coded_s(
        np.array([s.raw_bytes for s in settings]),
        np.array([ratio[s.codec] for s in settings]),
        column("codec {s.codec} {s.direction}") * threads,
        shards,
        clients,
        column("stream {s.tier} {s.direction}"),
        np.minimum(column("tier {s.tier} {s.direction}"), link),
        column("latency {s.tier} {s.direction}"),
        constants["overlap"],
    )


def fit(settings: list[Setting], seconds: np.ndarray, ratio: dict[str, float]) -> dict[str, float]:
    """The constants that fit best, robustly on the logarithm, drawn a little towards where they began."""
    start = np.log(START)

    def misses(x: np.ndarray) -> np.ndarray:
        fitted = forecast(dict(zip(NAMES, np.exp(x), strict=True)), settings, ratio)
        return np.concatenate([np.log(fitted / seconds), 0.05 * (x - start)])

    solved = least_squares(misses, start, loss="soft_l1", f_scale=0.1)
    return dict(zip(NAMES, np.exp(solved.x), strict=True))


def main() -> None:
    """Sweep, fit, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    draw = random.Random(0)
    every = [
        Setting(m, n, codec, tier, clients, way)
        for m in (8, 24, 72) for n in (1, 2, 4) for codec in CODECS for tier in TIERS
        for clients in (1, 2) for way in DIRECTIONS
    ]  # fmt: skip
    settings = draw.sample(every, arguments.count)
    ratio = ratios()
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(dir=arguments.folder) as disk,
    ):
        roots = {"memory": Path(memory), "disk": Path(disk), "link": Path(memory) / "link"}
        seconds = np.array([measure(setting, roots, arguments.rounds) for setting in settings])
    half = arguments.count // 2
    constants = fit(settings[:half], seconds[:half], ratio)
    errors = np.abs(forecast(constants, settings, ratio) / seconds - 1)
    lines = ["| judged on | configurations | median error | 90th percentile |", "|---|---|---|---|"]

    def row(name: str, chosen: list[int]) -> None:
        if chosen:
            e = errors[chosen]
            lines.append(f"| {name} | {len(chosen)} | {100 * np.median(e):.1f} % | {100 * np.quantile(e, 0.9):.1f} % |")

    unseen = list(range(half, arguments.count))
    row("the half that was fitted", list(range(half)))
    row("**the other half**", unseen)
    for tier in TIERS:
        for way in DIRECTIONS:
            row(
                f"of it {tier}, {way}", [n for n in unseen if settings[n].tier == tier and settings[n].direction == way]
            )
    lines += [
        "",
        "| constant | fitted |",
        "|---|---|",
        *(f"| {name} | {value:.4g} |" for name, value in constants.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        about = "The bar is a median error of 15 % on the half that was not fitted.\n\n"
        arguments.out.write_text(
            "# Forecast of writing and reading\n\n`python benchmarks/storage_forecast.py` printed this.  "
            + about
            + text
        )


if __name__ == "__main__":
    main()
