"""How fast the store is beside PyTorch's distributed checkpoint, torch.save and the bare disk: ratios in one run.

    python benchmarks/storage_speed.py FOLDER [--gb 2] [--rounds 4]

FOLDER must lie on the disk that is measured and hold eight times the state.  Reads are cold: files are
synchronised and dropped from the page cache first.  Writes of every contender end with fsync, except the row that says
so.  A disk's rate swings within minutes, and what was done just before counts: every round begins with another
contender, each has its turn with the disk at rest, and a ratio is the median over rounds of the ratio within a round,
with the smallest and the largest beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from storage_beside import Beside, beside, held_share
from storage_beside import table as table_beside
from storage_contenders import STALL, drop, flat, loaders, savers, training_state
from storage_shaped import shaped

from datahall.storage import execute
from datahall.storage.execute_async import BackgroundSaver

SHAPED_BYTES_PER_S = 100e6
REST = "datahall rest, in the background"


def timed(action: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure(folder: Path, gigabytes: float, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of every contender round by round, and the state's bytes."""
    state = training_state(gigabytes)
    background = BackgroundSaver(folder / "background")
    background.prepare(state)
    saves, loads = savers(folder, state, background), loaders(folder, state)
    times: dict[str, list[float]] = {name: [] for name in (*saves, REST, *loads)}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        for name, action in _turned([*saves.items()], number) + _turned([*loads.items()], number):
            at_rest(folder)
            times[name].append(timed(action))
            if name == STALL:
                times[REST].append(timed(background.finish))
    return times, sum(tensor.nbytes for tensor in flat(state))


def at_rest(folder: Path) -> None:
    """Return when all is written and forgotten, and the disk and the memory had a moment for their own upkeep.

    A virtual machine gives free memory back to its host some two seconds after it was freed.
    """
    drop(folder)
    os.sync()
    time.sleep(2.5)


def _turned(contenders: list[Any], by: int) -> list[Any]:
    """The contenders, beginning with another one each time."""
    return contenders[by % len(contenders) :] + contenders[: by % len(contenders)]


def over_a_link(folder: Path, weights: Path | None, rounds: int) -> dict[str, tuple[float, float, int]]:
    """bf16 weights through a link of 100 MB/s: codec to (seconds of save, of load, stored bytes)."""
    if weights is not None:
        state = {"model": torch.load(weights)}
    else:
        state = {"model": {str(n): torch.randn(1024, 12_000).mul_(0.02).bfloat16() for n in range(8)}}
    seconds: dict[str, list[tuple[float, float]]] = {}
    stored: dict[str, int] = {}
    target = {"model": {name: torch.zeros_like(t) for name, t in state["model"].items()}}
    with shaped(SHAPED_BYTES_PER_S):
        for _ in range(rounds):
            for codec in ("none", "zstd", "planes"):
                shutil.rmtree(folder, ignore_errors=True)
                saved = execute.save(folder, 1, state, codec=codec)
                stored[codec] = saved.stored_bytes
                read = timed(lambda: execute.load(folder, target))
                seconds.setdefault(codec, []).append((saved.seconds, read))
                assert all(torch.equal(t, target["model"][name]) for name, t in state["model"].items())
    shutil.rmtree(folder, ignore_errors=True)
    return {
        codec: (statistics.median(s for s, _ in pairs), statistics.median(r for _, r in pairs), stored[codec])
        for codec, pairs in seconds.items()
    }


def memory_of_saving(folder: Path, codec: str) -> int:
    """Bytes that saving 512 MB needs beside the state: how far the peak of a process of its own grows."""
    fork = multiprocessing.get_context("fork")
    told = fork.SimpleQueue()

    def save() -> None:
        state = {f"layer{n}": torch.randn(16_000_000) for n in range(8)}
        execute.save(
            folder / "first", 1, {"layer": state["layer0"][:1000].clone()}, codec=codec
        )  # libraries are loaded
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        execute.save(folder / "second", 1, state, codec=codec)
        told.put(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))

    process = fork.Process(target=save)
    process.start()
    more = told.get()
    process.join()
    shutil.rmtree(folder)
    return more


def ratios(times: dict[str, list[float]], slower: str, faster: str) -> str:
    """Median over rounds of the ratio within a round, and its smallest and largest."""
    found = [one / other for one, other in zip(times[slower], times[faster], strict=True)]
    return f"{statistics.median(found):.2f} | {min(found):.2f} to {max(found):.2f}"


def table(
    times: dict[str, list[float]], total: int, links: dict[str, tuple[float, float, int]], trained: list[Beside]
) -> str:
    """The figures and the bars as Markdown."""
    m = {name: statistics.median(values) for name, values in times.items()}
    lines = [
        f"State: {total / 1e9:.2f} GB of fp32 weights and moments, one process, {execute.DEFAULT_SHARDS} shards.",
        "",
    ]
    lines += ["| what | seconds, median | best to worst | GB/s |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {value:.2f} | {min(times[name]):.2f} to {max(times[name]):.2f} | {total / value / 1e9:.2f} |"
        for name, value in m.items()
    ]
    lines += ["", "| bar | asked | reached, median | over rounds |", "|---|---|---|---|"]
    best_dcp = min((name for name in m if name.startswith("DCP save")), key=lambda name: m[name])
    bars = [
        ("save, times as fast as torch.save with fsync", 1.0, "torch.save", "datahall save"),
        ("save, times as fast as torch.save without fsync", 1.0, "torch.save, no fsync", "datahall save"),
        ("save, times as fast as DCP by default", 1.0, "DCP save, 1 thread", "datahall save"),
        ("save, times as fast as the best DCP", 1.0, best_dcp, "datahall save"),
        ("load, times as fast as torch.load", 1.0, "torch.load", "datahall load"),
        ("load, times as fast as DCP", 1.0, "DCP load", "datahall load"),
        ("load, share of the raw read rate", 0.8, "raw read", "datahall load"),
    ]
    lines += [f"| {name} | at least {asked} | {ratios(times, slow, fast)} |" for name, asked, slow, fast in bars]
    for one in trained:
        middle, low, high = held_share(one)
        what = f"training of {one.threads} thread{'s' * (one.threads > 1)} held, share of a synchronous save"
        lines.append(f"| {what} | at most 0.15 | {middle:.2f} | {low:.2f} to {high:.2f} |")
    plain = sum(links["none"][:2])
    best = max((c for c in links if c != "none"), key=lambda c: plain / sum(links[c][:2]))
    gain = plain / sum(links[best][:2])
    lines.append(f"| bf16 weights over 100 MB/s, save and load by `{best}` | at least 1.3 | {gain:.2f} | |")
    lines += ["", "| codec at 100 MB/s | save s | load s | stored MB |", "|---|---|---|---|"]
    lines += [f"| {codec} | {s:.2f} | {r:.2f} | {b / 1e6:.1f} |" for codec, (s, r, b) in links.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--weights", type=Path, help="bf16 tensors by name, written by torch.save")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    held = {codec: memory_of_saving(arguments.folder / "memory", codec) for codec in ("none", "planes")}
    times, total = measure(arguments.folder / "speed", arguments.gb, arguments.rounds)
    shutil.rmtree(arguments.folder / "speed", ignore_errors=True)
    trained, size = beside(arguments.folder / "training", arguments.gb, arguments.rounds)
    shutil.rmtree(arguments.folder / "training", ignore_errors=True)
    links = over_a_link(arguments.folder / "shaped", arguments.weights, min(3, arguments.rounds))
    text = table(times, total, links, trained)
    print("# How fast the store is\n")
    cores = os.cpu_count()
    print(f"`python benchmarks/storage_speed.py FOLDER` printed this, {arguments.rounds} rounds on {cores} cores.\n")
    print(text)
    print("| saving 512 MB in 4 shards of 128 MB | MB beside the state (at most one shard) |\n|---|---|")
    for codec, more in held.items():
        print(f"| {codec} | {more / 1e6:.0f} |")
    print(f"\n{table_beside(trained, size)}", end="")


if __name__ == "__main__":
    main()
