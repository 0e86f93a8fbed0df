"""Three caches and a spill, forecast before and counted after: prepared data, shards of a store, activations.

Printed by `storage_input`.  Hits are forecast by replaying the order through the same policy, seconds (both by
`choice.cache_forecast`) with the mean costs of a fetch, a hit and a fill, each timed beforehand on entries that the run
does not use.  The gain that is measured is the run without the cache less the run with it.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from storage_shaped import ShapedPlace

from datahall.storage import execute
from datahall.storage.cache import CachedPlace, TierCache
from datahall.storage.choice import CacheForecast, cache_forecast
from datahall.storage.eviction import Spill, eviction
from datahall.storage.execute_offload import Offload
from datahall.storage.input_probe import costs_of
from datahall.storage.plan import CHUNK_BYTES

PROBED = range(4)  # entries that the run does not use


def timed(action: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def often(action: Callable[[], Any]) -> float:
    """Seconds of a call, the median of five."""
    return statistics.median(timed(action) for _ in range(5))


def row(forecast: CacheForecast, cache: TierCache, gained_s: float) -> str:
    """Hits and gain, forecast and then found."""
    verdict = "use it" if forecast.pays else "**do not**"
    return f"{forecast.hits} | {cache.policy.hits} | {forecast.gain_s:+.2f} | {verdict} | {gained_s:+.2f}"


def run(folder: Path, fetch: Callable[[str], bytes], size: int, order: list[str], limit: int) -> str:
    """Entries of `size` bytes in a known order, through a cache of `limit` bytes and without."""
    costs = costs_of(folder, PROBED, lambda number: fetch(f"probe {number}"), lambda _: size)
    accesses = [(key, size) for key in order]
    forecast = cache_forecast(eviction("lru", limit), accesses, costs.slow_s, costs.fast_s, costs.fill_s)
    shutil.rmtree(folder, ignore_errors=True)
    cache = TierCache(folder, eviction("lru", limit))
    without = timed(lambda: [fetch(key) for key in order])
    with_it = timed(lambda: [cache.get(key, size, lambda k=key: fetch(k)) for key in order])
    return row(forecast, cache, without - with_it)


def of_a_store(folder: Path, loads: int = 3) -> str:
    """Shards behind a link of 100 MB/s, loaded several times through a cache."""
    state = {"weight": torch.randn(8, 1 << 20)}  # 32 MiB: eight chunks
    execute.save(folder / "store", 1, state)
    place, target = ShapedPlace(folder / "store", 100e6), {"weight": torch.zeros(8, 1 << 20)}
    slow, chunks = CHUNK_BYTES / 100e6, -(-state["weight"].nbytes // CHUNK_BYTES)
    probe = costs_of(folder / "probe", PROBED, lambda _: b"x" * CHUNK_BYTES, lambda _: CHUNK_BYTES)
    accesses = [(str(n), CHUNK_BYTES) for _ in range(loads) for n in range(chunks)]
    forecast = cache_forecast(eviction("lru", 1 << 30), accesses, slow, probe.fast_s, probe.fill_s)
    without = timed(lambda: [execute.load(place, target) for _ in range(loads)])
    cache = TierCache(folder / "cache", eviction("lru", 1 << 30))
    cached = CachedPlace(place, cache)
    with_it = timed(lambda: [execute.load(cached, target) for _ in range(loads)])
    return row(forecast, cache, without - with_it)


def of_activations(folder: Path) -> list[str]:
    """Activations of eight wide layers: bytes to files as forecast from shapes, and files against computing again."""
    torch.manual_seed(0)
    width, batch, layers, limit = 512, 4096, 8, 32 << 20
    net = torch.nn.Sequential(*(m for _ in range(layers) for m in (torch.nn.Linear(width, width), torch.nn.Tanh())))
    data = torch.randn(batch, width, requires_grad=True)
    each = batch * width * 4
    forecast = Spill(limit)
    for _ in range(2 * layers + 1):  # each Linear its input, each Tanh its output, the square its input
        forecast.keeps(each)
    forward = often(lambda: net(data))
    probe, path = data.detach().numpy().tobytes(), folder / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    files = often(lambda: path.write_bytes(probe)) + often(path.read_bytes)
    path.unlink()
    spilled_share = forecast.written_bytes / (each * (2 * layers + 1))
    by_files, again = forecast.written_bytes / each * files, forward * spilled_share
    plain = often(lambda: net(data).square().mean().backward())

    def spilled() -> None:
        with Offload(folder, limit) as offload:
            loss = net(data).square().mean()
        loss.backward()
        counted.append((offload.written_bytes, offload.read_bytes))
        offload.clear()

    counted: list[tuple[int, int]] = []
    extra = often(spilled) - plain
    verdict = "offload" if by_files < again else "**compute again instead**"
    written, read = counted[0]
    what = f"{2 * layers + 1} of {each / 1e6:.1f} MB, {limit / 1e6:.0f} MB stay"
    bytes_of = f"{forecast.written_bytes:,} | {written:,} | {read:,}"
    return [
        "",
        "| activations | bytes forecast | written | read | offload s | computing again s | before | measured s |",
        "|---|---|---|---|---|---|---|---|",
        f"| {what} | {bytes_of} | {by_files:.2f} | {again:.2f} | {verdict} | {extra:.2f} |",
    ]


def table(folder: Path, prepare: Callable[[int], bytes], size: int, shards: int) -> list[str]:
    """All of them as Markdown."""
    epochs = [f"shard {n}" for _ in range(3) for n in range(shards)]
    quick = b"\1" * size

    def dear(key: str) -> bytes:
        return prepare(int(key.split()[1]))

    lines = [
        "| cache | hits forecast | hits counted | gain forecast s | verdict before | gain measured s |",
        "|---|---|---|---|---|---|",
        f"| prepared shards, three epochs, all fit | {run(folder / 'a', dear, size, epochs, shards * size)} |",
        f"| prepared shards in order, half fit | {run(folder / 'b', dear, size, epochs, shards * size // 2)} |",
        f"| shards that are read as fast, half fit | "
        f"{run(folder / 'c', lambda _: bytes(quick), size, 40 * epochs, shards * size // 2)} |",
        f"| a checkpoint behind 100 MB/s, loaded three times | {of_a_store(folder / 'd')} |",
    ]
    return lines + of_activations(folder / "e")
