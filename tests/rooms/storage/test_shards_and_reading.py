"""Data sets in shards: written, read and prepared whole; and the replay of reading them is what a reader then does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.base.errors import CaseError, UsageError
from datahall.case.data import MANIFEST, described
from datahall.storage import byte_pairs
from datahall.storage.cache import TierCache
from datahall.storage.estimate import input_wait_s
from datahall.storage.eviction import eviction
from datahall.storage.faults import CorruptShard, NoCheckpoint, StoreFault
from datahall.storage.input import Pipeline, SampleReader, ShardedData
from datahall.storage.order import Order
from datahall.storage.place import LocalPlace
from datahall.storage.reading import ReadCosts, shards_opened, through, waits
from datahall.storage.shards import open_shards, write_shards
from datahall.ui.data import data

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
    broken = next((tmp_path / "data").glob("shard-00003-*.bin"))
    broken.write_bytes(b"x" + broken.read_bytes()[1:])
    found = open_shards(path)
    with pytest.raises(CorruptShard, match="shard-00003"):
        found.prepared(found.shards[3])
    told = CliRunner().invoke(data, ["verify", path], standalone_mode=False)
    assert told.return_value == 1
    assert "shard-00003" in told.output
    assert f"1 of {len(found.shards)} shards damaged" in told.output


def test_any_changed_byte_of_the_description_is_found(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    write_shards(path, TEXT, 500)
    file = tmp_path / "data" / MANIFEST
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreFault, match="data"):
            open_shards(path)
    file.write_bytes(whole)
    assert open_shards(path).shards
    without = json.loads(whole)
    del without["digest"]
    file.write_text(json.dumps(without))
    assert open_shards(path).shards  # as the first versions wrote it


def test_a_writing_that_fails_leaves_nothing_and_leftovers_are_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "data")
    commit = LocalPlace.commit

    def full(self: LocalPlace, *arguments: object, **options: object) -> None:
        raise StoreFault("the disk is full.")

    monkeypatch.setattr(LocalPlace, "commit", full)
    with pytest.raises(StoreFault, match="full"):
        write_shards(path, TEXT, 500)
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr(LocalPlace, "commit", commit)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shard-00000-01234567.bin").write_bytes(b"of a process that was killed")
    write_shards(path, TEXT, 500)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "data")
    assert len(open_shards(str(link)).shards) == len(open_shards(path).shards)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"a", "one shard"),
        (b"PAR1\x15\x04 PAR1" * 9, "begins like Parquet"),
        (b"\x1f\x8b\x08" * 9, "gunzip"),
        ("text ".encode("utf-16") * 9, "iconv"),
        (None, "Is a directory"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_what_to_do(tmp_path: Path, content: bytes | None, told: str) -> None:
    file, path = tmp_path / "book.txt", tmp_path / "data"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    refused = CliRunner().invoke(data, ["shard", str(file), str(path), "--shard", "8 B"], standalone_mode=False)
    assert isinstance(refused.exception, UsageError)
    assert told in str(refused.exception)
    assert not path.exists()


def test_any_text_is_bytes_and_comes_back_whatever_its_encoding(tmp_path: Path) -> None:
    for number, text in enumerate((b"one\r\ntwo\r\n" * 9, "na\xefve caf\xe9 ".encode("latin-1") * 9)):
        (tmp_path / "book.txt").write_bytes(text)
        path = str(tmp_path / f"data {number}")
        made = CliRunner().invoke(data, ["shard", str(tmp_path / "book.txt"), path, "--shard", "16 B"])
        assert made.exit_code == 0, made.output
        found = open_shards(path)
        assert b"".join(found.prepared(shard) for shard in found.shards) == text


def test_a_data_set_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    for path in ("s3://bucket", "/", ""):
        with pytest.raises(UsageError, match="folder of its own"):
            write_shards(path, TEXT, 500)
    with pytest.raises(UsageError, match="at least one byte"):
        write_shards(str(tmp_path / "data"), TEXT, 0)
    with pytest.raises(NoCheckpoint, match="datahall data shard"):
        open_shards(str(tmp_path / "nowhere"))


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(2, "No such file"), r"no data set at here \(No such file\).*datahall data shard"),
        (ModuleNotFoundError("No module named 's3fs'"), "needs a driver.*pip install"),
        (KeyError("shards"), "describes no data set"),
        (Exception("no connection"), "cannot be read: Exception: no connection.*credentials"),
    ],
)
def test_data_of_a_case_that_cannot_be_reached_are_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def unreachable(path: str) -> str:
        raise error

    monkeypatch.setattr("datahall.case.data._text", unreachable)
    with pytest.raises(CaseError, match=f"case.yaml:7: .*{told}"):
        described("here", "case.yaml:7")


def test_other_data_of_the_same_size_are_not_the_same_data(tmp_path: Path) -> None:
    found: list[ShardedData] = []
    for name, text in (("one", TEXT), ("same", TEXT), ("other", TEXT[::-1])):
        write_shards(str(tmp_path / name), text, 500)
        found.append(open_shards(str(tmp_path / name)).training(7))
    one, same, other = (Order(data.sizes, 1, content=data.content) for data in found)
    assert one.sizes == other.sizes
    assert one.batch(0, 50) == other.batch(0, 50)
    assert one.identity() == same.identity() != other.identity()
