"""Data sets in shards: written, read and prepared whole; and the replay of reading them is what a reader then does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.base.errors import UsageError
from datahall.storage import byte_pairs
from datahall.storage.cache import TierCache
from datahall.storage.estimate import input_wait_s
from datahall.storage.eviction import eviction
from datahall.storage.faults import CorruptShard, NoCheckpoint
from datahall.storage.input import Pipeline, SampleReader, ShardedData
from datahall.storage.order import Order
from datahall.storage.reading import ReadCosts, shards_opened, through, waits
from datahall.storage.shards import open_shards, write_shards

TEXT = b"".join(b"%08d" % number for number in range(600))


def merged_one_by_one(text: bytes, merges: list[tuple[int, int]]) -> list[int]:
    tokens = list(text)
    for number, pair in enumerate(merges):
        found: list[int] = []
        at = 0
        while at < len(tokens):
            whole = tuple(tokens[at : at + 2]) == pair
            found.append(256 + number if whole else tokens[at])
            at += 2 if whole else 1
        tokens = found
    return tokens


@settings(deadline=None)
@given(text=st.binary(max_size=80).map(lambda raw: bytes(byte % 4 for byte in raw)), merges=st.integers(0, 9))
def test_byte_pairs_are_merged_from_the_left_and_come_back(text: bytes, merges: int) -> None:
    learnt = byte_pairs.learn(text, merges)
    tokens = byte_pairs.encode(text, learnt)
    assert tokens.tolist() == merged_one_by_one(text, learnt)
    assert byte_pairs.decode(tokens, learnt) == text


@pytest.mark.parametrize(
    ("form", "codec", "merges"), [("tokens", "none", 0), ("tokens", "zstd", 40), ("text", "gzip", 40)]
)
def test_what_is_written_is_read(tmp_path: Path, form: str, codec: str, merges: int) -> None:
    path = str(tmp_path / "data")
    write_shards(path, TEXT, 500, form=form, codec_name=codec, merges=merges)
    found = open_shards(path)
    learnt = byte_pairs.learn(TEXT, merges)
    pieces = [byte_pairs.encode(TEXT[at : at + 500], learnt) for at in range(0, len(TEXT), 500)]
    assert [found.prepared(shard) for shard in found.shards] == [piece.tobytes() for piece in pieces]
    reader = SampleReader(found.training(7))
    assert len(found.training(7).sizes) + len(found.held(7).sizes) == len(pieces)
    number = 0
    for piece in pieces[: len(found.training(7).sizes)]:
        for at in range(0, len(piece) - 7, 7):
            (sample,) = reader.samples([number])
            assert np.array_equal(sample, piece[at : at + 8])
            number += 1
    assert number == sum(found.training(7).sizes)


def test_a_damaged_a_missing_and_a_second_data_set_are_told(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    with pytest.raises(NoCheckpoint):
        open_shards(path)
    with pytest.raises(UsageError, match="one shard"):
        write_shards(path, TEXT, len(TEXT))
    write_shards(path, TEXT, 500)
    with pytest.raises(UsageError, match="already"):
        write_shards(path, TEXT, 500)
    broken = tmp_path / "data" / "shard-00003.bin"
    broken.write_bytes(b"x" + broken.read_bytes()[1:])
    found = open_shards(path)
    with pytest.raises(CorruptShard, match="shard-00003"):
        found.prepared(found.shards[3])


@pytest.mark.parametrize(("policy", "workers", "pieces"), [("lru", 1, 1), ("s3-fifo", 2, 2), ("lfu", 3, 4)])
def test_the_replay_opens_and_hits_what_the_reader_does(tmp_path: Path, policy: str, workers: int, pieces: int) -> None:
    sizes, size, steps = [40, 25, 0, 60, 33, 41, 52, 18, 29], 12, 60
    stored = [10 * count + 1 for count in sizes]
    data = ShardedData(
        sizes, lambda shard: bytes(stored[shard]), lambda shard: stored[shard], lambda shard, _: range(99)
    )
    for worker in range(workers):
        cache = TierCache(tmp_path / str(worker), eviction(policy, 2200))
        reader = SampleReader(data, 2, cache)
        pipeline = Pipeline(
            reader.samples,
            Order(sizes, 4, 2),
            size,
            until=steps * size,
            worker=worker,
            workers=workers,
            pieces=pieces,
            ahead=5,
        )
        assert sum(1 for _ in pipeline) == steps * pieces
        opened = shards_opened(Order(sizes, 4, 2), size, steps, worker=worker, workers=workers, pieces=pieces)
        forecast = through(eviction(policy, 2200), opened, stored)
        assert reader.opened == sum(len(shards) for shards in forecast.shards)
        assert reader.opened - reader.fetched == sum(forecast.hits) > 0


@given(load=st.floats(0.01, 1), work=st.floats(0.01, 1), ahead=st.integers(0, 8))
def test_even_loads_wait_as_the_formula_says(load: float, work: float, ahead: int) -> None:
    waited = waits(np.full(200, load), work, ahead)
    assert waited[-50:].mean() == pytest.approx(float(input_wait_s(load, work, ahead > 0)), abs=1e-9)
    assert waited[0] == pytest.approx(load)


def test_a_burst_is_hidden_by_as_much_as_was_read_ahead() -> None:
    load = np.where(np.arange(60) % 20 == 10, 1.0, 0.0)
    assert waits(load, 0.1, 0).sum() == pytest.approx(3.0)
    assert waits(load, 0.1, 4).sum() == pytest.approx(3 * (1.0 - 0.5))  # four are ready, and one is being worked on
    assert waits(load, 0.1, 10).sum() == pytest.approx(0.0)
    costs = ReadCosts(1.0, 0.25, 0.5)
    forecast = through(eviction("lru", 10), [(0,), (), (0,)], [4])
    assert forecast.load_s(costs, True).tolist() == [1.5, 0.0, 0.25]
