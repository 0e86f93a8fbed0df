"""How long a loop stands still for input: forecast and measured, with and without reading ahead and a cache.

    python benchmarks/storage_input.py FOLDER

A shard is 256 rows of text that has to be tokenised (a pure Python byte-pair count stands in for a tokeniser: dear and
honest work); a step is a matrix product of a set length.  The forecast knows the mean time to prepare a shard, measured
on two shards that the runs do not use, and the mean time of a step, measured without input.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from storage_cache import table as caches

from datahall.storage.cache import TierCache
from datahall.storage.estimate import input_wait_s
from datahall.storage.eviction import eviction
from datahall.storage.input import Pipeline, SampleReader, ShardedData
from datahall.storage.order import Order

ROWS, LENGTH, SHARDS, BATCH = 256, 512, 12, 32


def prepare(shard: int) -> bytes:
    """Tokens of a shard: its text with the commonest pair of bytes merged, as many times as makes it dear."""
    text = np.random.default_rng(shard).integers(97, 123, ROWS * LENGTH, dtype=np.uint8).tobytes()
    for code in range(128, 131):
        (first, second), _ = Counter(pairwise(text)).most_common(1)[0]
        text = text.replace(bytes((first, second)), bytes((code,)))
    return text.ljust(ROWS * LENGTH, b"\0")


def split(shard: int, data: bytes) -> list[bytes]:
    """Rows."""
    return [data[at : at + LENGTH] for at in range(0, len(data), LENGTH)]


def step(matrix: np.ndarray, seconds: float) -> None:
    """Arithmetic for about `seconds`; it leaves the interpreter to others, as training does."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        matrix @ matrix


def run(folder: Path, ahead: int, cached: bool, step_s: float, steps: int) -> tuple[float, float]:
    """Mean seconds a step that the loop waited, and mean seconds of a step's own work."""
    shutil.rmtree(folder, ignore_errors=True)
    cache = TierCache(folder, eviction("lru", SHARDS * ROWS * LENGTH)) if cached else None
    reader = SampleReader(ShardedData([ROWS] * SHARDS, prepare, lambda _: ROWS * LENGTH, split), 2, cache)
    pipeline = Pipeline(reader.samples, Order([ROWS] * SHARDS, 1, mix=2), BATCH, ahead=ahead)
    matrix = np.ones((256, 256), dtype=np.float32)
    worked = 0.0
    next(pipeline)
    pipeline.waited_s = 0.0  # the first fill is the start's, not the steps'
    for _ in range(steps):
        began = time.perf_counter()
        step(matrix, step_s)
        worked += time.perf_counter() - began
        next(pipeline)
    pipeline.close()
    return pipeline.waited_s / steps, worked / steps


def prepared(cached: bool, steps: int) -> float:
    """Shards prepared in a step, by replaying the order behind the first batch past open shards and the cache."""
    order, policy, held = Order([ROWS] * SHARDS, 1, mix=2), eviction("lru", SHARDS * ROWS * LENGTH), list[int]()
    count = 0
    for number, place in enumerate(map(order.place, order.batch(0, (steps + 1) * BATCH))):
        if place.shard in held:
            held.remove(place.shard)
        elif not (cached and policy.access(f"{place.shard}", ROWS * LENGTH).hit):
            count += number >= BATCH
        held = [*held, place.shard][-(order.mix + 1) :]
    return count / steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=192)
    arguments = parser.parse_args()
    began = time.perf_counter()
    for shard in (1000, 1001):
        prepare(shard)
    dear = (time.perf_counter() - began) / 2
    lines = [f"A shard of {ROWS} rows takes {1e3 * dear:.0f} ms to prepare, a batch has {BATCH} rows.", ""]
    lines += ["| reading ahead | cache | step ms | wait forecast ms | wait measured ms |", "|---|---|---|---|---|"]
    per_batch = dear * BATCH / ROWS
    for factor in (0.5, 2.0):
        for ahead, cached in ((0, False), (16, False), (0, True), (16, True)):
            print(f"step {factor} of a batch's preparation, ahead {ahead}, cache {cached}", file=sys.stderr, flush=True)
            load = dear * prepared(cached, arguments.steps)
            wait, worked = run(arguments.folder / "cache", ahead, cached, factor * per_batch, arguments.steps)
            expected = float(input_wait_s(load, worked, ahead > 0))
            row = f"| {ahead or 'no'} | {'yes' if cached else 'no'} | {1e3 * worked:.1f} | {1e3 * expected:.1f} |"
            lines.append(f"{row} {1e3 * wait:.1f} |")
    lines += ["", *caches(arguments.folder / "caches", prepare, ROWS * LENGTH, SHARDS)]
    shutil.rmtree(arguments.folder / "caches", ignore_errors=True)
    epochs = arguments.steps * BATCH / (SHARDS * ROWS)
    print("# Waiting for input, and caches\n")
    cores = os.cpu_count()
    print(f"`python benchmarks/storage_input.py FOLDER` printed this on {cores} cores, {epochs:.1f} epochs a row.\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
