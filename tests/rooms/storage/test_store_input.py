"""The input pipeline: each sample once an epoch, over kills, resumes and other numbers of workers; cached shards."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.base.errors import UsageError
from datahall.storage.cache import TierCache
from datahall.storage.eviction import eviction, replay
from datahall.storage.input import Pipeline, SampleReader, ShardedData
from datahall.storage.order import Order

SIZES = [7, 0, 13, 5, 9, 11, 3]


def numbered(reads: list[int]) -> ShardedData:
    """A data set whose sample is its number; `reads` logs every read of a shard."""

    def held(shard: int) -> list[int]:
        return list(range(sum(SIZES[:shard]), sum(SIZES[: shard + 1])))

    def read(shard: int) -> bytes:
        reads.append(shard)
        return json.dumps(held(shard)).encode()

    return ShardedData(
        SIZES, read, lambda shard: len(json.dumps(held(shard))), lambda shard, prepared: json.loads(prepared)
    )


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(sum),
    seed=st.integers(0, 99),
    mix=st.integers(1, 5),
)
def test_each_epoch_holds_each_sample_once(sizes: list[int], seed: int, mix: int) -> None:
    order = Order(sizes, seed, mix)
    for epoch in range(2):
        seen = order.batch(epoch * sum(sizes), sum(sizes))
        assert sorted(seen) == list(range(sum(sizes)))
        assert [order.batch(epoch * sum(sizes) + at, 1)[0] for at in range(sum(sizes))] == seen
    places = [order.place(number) for number in range(sum(sizes))]
    assert [(place.shard, place.index) for place in places] == [
        (s, n) for s, size in enumerate(sizes) for n in range(size)
    ]


def test_the_order_is_the_seeds_and_is_shuffled() -> None:
    one, same, other = Order([50] * 8, 1), Order([50] * 8, 1), Order([50] * 8, 2)
    first = one.batch(0, 400)
    assert first == same.batch(0, 400)
    assert first != other.batch(0, 400)
    assert first != one.batch(400, 400)  # the next epoch
    assert first != sorted(first)
    assert one.batch(17, 1) == [first[17]]  # going back is possible: nothing but the position counts
    assert one.identity() == same.identity() != other.identity()
    with pytest.raises(UsageError):
        Order([], 1)


@pytest.mark.parametrize("ahead", [0, 3])
def test_nothing_is_lost_or_repeated_when_the_number_of_workers_changes(ahead: int) -> None:
    seen: list[int] = []
    position = 0
    for workers, steps in ((2, 5), (3, 4), (1, 7), (4, 3)):
        pipelines = [
            Pipeline(
                SampleReader(numbered([])).samples,
                Order(SIZES, 3),
                12,
                position=position,
                worker=w,
                workers=workers,
                pieces=3,
                ahead=ahead,
            )
            for w in range(workers)
        ]
        for _ in range(steps):
            parts = [[next(pipeline) for _ in range(3)] for pipeline in pipelines]
            assert all(piece.ids == piece.batch for part in parts for piece in part)
            assert {piece.position for part in parts for piece in part[:2]} == {position}
            position += 12
            assert {part[2].position for part in parts} == {position}
            seen += [sample for part in parts for piece in part for sample in piece.batch]
        assert {pipeline.position for pipeline in pipelines} == {position}
        for pipeline in pipelines:
            pipeline.close()  # what was read ahead is dropped, and read again by the next ones
    assert seen == Order(SIZES, 3).batch(0, len(seen))


@pytest.mark.parametrize("ahead", [0, 5])
def test_nothing_is_read_behind_the_end(ahead: int) -> None:
    reads: list[int] = []
    reader = SampleReader(numbered(reads), mix=1)
    pipeline = Pipeline(reader.samples, Order(SIZES, 3, mix=1), 4, until=8, ahead=ahead)
    assert [len(taken.ids) for taken in pipeline] == [4, 4]
    needed = {Order(SIZES, 0).place(n).shard for n in Order(SIZES, 3, mix=1).batch(0, 8)}
    assert set(reads) == needed
    assert reader.opened == reader.fetched == len(reads)


def _train(store: Path, log: Path, steps: int) -> None:
    import torch

    from datahall.storage import execute

    torch.set_num_threads(1)  # a forked process has none of its parent's threads, and would wait for them
    state = {"done": 0}
    position = execute.load(store, state).extras["position"] if store.exists() else 0
    pipeline = Pipeline(SampleReader(numbered([])).samples, Order(SIZES, 5), 4, position=position, ahead=2)
    for _ in range(steps):
        taken = next(pipeline)
        line = json.dumps([pipeline.position, taken.batch]) + "\n"
        with log.open("a") as out:
            out.write(line)
        execute.save(store, pipeline.position, state, extras={"position": pipeline.position}, keep=2)
        if pipeline.position == 40 and position == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_and_resumed_from_the_checkpoint_every_sample_is_seen_once(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    fork = multiprocessing.get_context("fork")
    for expected in (-signal.SIGKILL, 0):
        process = fork.Process(target=_train, args=(tmp_path / "store", tmp_path / "log", 20))
        process.start()
        process.join()
        assert process.exitcode == expected
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [position for position, _ in lines] == [4 * (n + 1) for n in range(30)]
    seen = [sample for _, samples in lines for sample in samples]
    assert seen == Order(SIZES, 5).batch(0, 120)


def test_prepared_shards_are_cached_and_the_hits_are_the_forecast(tmp_path: Path) -> None:
    reads: list[int] = []
    data = numbered(reads)
    limit = sum(data.bytes_of(n) for n in range(len(SIZES))) * 4 // 5
    order = Order(SIZES, 1, mix=2)
    cache = TierCache(tmp_path, eviction("lru", limit))
    pipeline = Pipeline(SampleReader(data, 2, cache).samples, order, 8)
    for _ in range(30):
        next(pipeline)
    forecast = eviction("lru", limit)
    opened: list[int] = []  # the shards that are in memory need no access, as in the pipeline
    accesses: list[tuple[str, int]] = []
    for place in map(order.place, order.batch(0, 240)):
        if place.shard in opened:
            opened.remove(place.shard)
        else:
            accesses.append((f"shard {place.shard}", data.bytes_of(place.shard)))
        opened = [*opened, place.shard][-3:]
    replay(forecast, accesses)
    assert (cache.policy.hits, cache.policy.misses) == (forecast.hits, forecast.misses)
    assert len(reads) == forecast.misses
    assert forecast.hits > 0


def test_an_error_while_reading_ahead_reaches_the_loop() -> None:
    def broken(shard: int) -> bytes:
        raise OSError("the disk is gone")

    data = ShardedData(SIZES, broken, lambda shard: 1, lambda shard, prepared: list(prepared))
    pipeline = Pipeline(SampleReader(data).samples, Order(SIZES, 1), 4, ahead=2)
    with pytest.raises(OSError, match="the disk is gone"):
        next(pipeline)
    pipeline.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "input" and thread.is_alive()]
