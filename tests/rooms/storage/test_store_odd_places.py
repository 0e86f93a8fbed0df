"""Places as people really have them: links, bad sectors, folders that may not be written, files that are no shards."""

from __future__ import annotations

import builtins
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
LocalFileSystem = pytest.importorskip("fsspec.implementations.local").LocalFileSystem

from datahall.base.errors import UsageError  # noqa: E402
from datahall.storage import execute  # noqa: E402
from datahall.storage.cache import TierCache  # noqa: E402
from datahall.storage.codec import encode  # noqa: E402
from datahall.storage.eviction import eviction  # noqa: E402
from datahall.storage.execute_export import export_safetensors  # noqa: E402
from datahall.storage.execute_probe import probe_tier  # noqa: E402
from datahall.storage.faults import CorruptShard, NoCheckpoint, StoreFault, Unsafe  # noqa: E402
from datahall.storage.manifest import MANIFEST, Manifest, parse, step_folder  # noqa: E402
from datahall.storage.place import LocalPlace, open_place  # noqa: E402
from datahall.storage.remote import RemotePlace  # noqa: E402
from datahall.storage.store import collect, committed_steps, read_manifest, verify  # noqa: E402

ONES = torch.ones(3)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_missing_library_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute.save(tmp_path, 1, {"w": torch.zeros(3)})
    execute.save(tmp_path, 2, {"w": torch.zeros(1000)}, codec="lz4")
    imported = builtins.__import__

    def without_lz4(name: str, *arguments: Any) -> Any:
        if name.startswith("lz4"):
            raise ModuleNotFoundError("No module named 'lz4'", name="lz4")
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_lz4)
    with pytest.raises(StoreFault, match="needs lz4") as told:
        execute.load(tmp_path, {"w": torch.zeros(1000)})
    assert not isinstance(told.value, CorruptShard)
    with pytest.raises(StoreFault, match="Install"):
        encode("lz4", memoryview(bytes(9000)), "float32")


def test_a_manifest_of_another_version_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Manifest(1, "0" * 16, "none", {}, None, (), {}).dumps().encode()
    monkeypatch.setattr("datahall.storage.manifest.FORMAT_VERSION", 2)
    with pytest.raises(StoreFault, match="format 1") as told:
        parse(text, "here")
    assert not isinstance(told.value, CorruptShard)


def test_a_failed_save_takes_back_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(fd: int, data: Any) -> int:
        if len(data) > 5000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    state = {"large": torch.zeros(9000), "small": torch.zeros(100), "smaller": torch.zeros(10)}
    with pytest.raises(StoreFault, match="make room"):
        execute.save(tmp_path, 1, state)
    assert files(tmp_path) == []


def test_a_bad_sector_and_a_folder_in_the_place_of_a_shard_are_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        execute.save(tmp_path, step, {"w": torch.full((3,), float(step))})
    shard = next((tmp_path / step_folder(2)).glob("*.shard"))
    read = os.preadv

    def bad(fd: int, *arguments: Any) -> int:
        if os.readlink(f"/proc/self/fd/{fd}") == str(shard):
            raise OSError(errno.EIO, "Input/output error")
        return read(fd, *arguments)

    monkeypatch.setattr(os, "preadv", bad)
    for _ in range(2):
        assert shard.name in verify(tmp_path, 2).faults[0]
        loaded = execute.load(tmp_path, {"w": torch.zeros(3)})
        assert loaded.step == 1
        assert shard.name in loaded.skipped[0][1]
        monkeypatch.undo()
        if shard.is_file():
            shard.unlink()
            shard.mkdir()


def test_links_are_not_followed_inside_a_store_but_a_store_may_be_one(tmp_path: Path) -> None:
    real, linked = tmp_path / "with a space", tmp_path / "link"
    execute.save(real, 1, {"w": ONES})
    execute.save(real, 2, {"w": ONES})
    linked.symlink_to(real)
    assert execute.load(linked, {"w": torch.zeros(3)}).step == 2
    shard = next((real / step_folder(2)).glob("*.shard"))
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    assert execute.load(real, {"w": torch.zeros(3)}).step == 1
    (real / step_folder(1)).rename(tmp_path / "moved")
    (real / step_folder(1)).symlink_to(tmp_path / "moved")
    before = sorted((tmp_path / "moved").iterdir())
    with pytest.raises(Unsafe, match="link"):
        execute.load(real, {"w": torch.zeros(3)}, step=1)
    with pytest.raises(Unsafe, match="link"):
        execute.save(real, 1, {"w": ONES}, replace=True)
    collect(real, 1, grace_s=-1)
    assert sorted((tmp_path / "moved").iterdir()) == before


def test_paths_of_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    execute.save("~/home", 1, {"w": ONES})
    assert committed_steps(open_place(tmp_path / "home")) == [1]
    assert not Path("~").exists()
    execute.save("relative", 1, {"w": ONES})
    assert verify(f"file://{tmp_path}/relative", 1).faults == ()
    (tmp_path / "file").write_text("no folder")
    for call in (
        lambda: execute.save(tmp_path / "file", 1, {"w": ONES}),
        lambda: execute.load(tmp_path / "file", {"w": ONES}),
        lambda: collect(tmp_path / "file", 1),
    ):
        with pytest.raises(StoreFault, match="Not a directory"):
            call()
    with pytest.raises(UsageError, match="empty"):
        open_place("")
    for url in ("nosuch://bucket/prefix", "hdfs+:///x"):
        with pytest.raises(UsageError, match="driver"):
            RemotePlace(url)


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute.save(tmp_path, 1, {"w": ONES})

    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(StoreFault, match=r"step-00000002.*Permission denied.*may write"):
        execute.save(tmp_path, 2, {"w": ONES})
    monkeypatch.undo()
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StoreFault, match="cannot be removed"):
        open_place(tmp_path).remove(step_folder(1), MANIFEST)
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(StoreFault, match="hard links"):
        execute.save(tmp_path, 2, {"w": ONES})
    assert committed_steps(open_place(tmp_path)) == [1]


def test_damaged_steps_do_not_count_as_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        execute.save(tmp_path, step, {"w": ONES})
    next((tmp_path / step_folder(4)).glob("*.shard")).unlink()
    (tmp_path / step_folder(3) / MANIFEST).write_text("{}")
    collect(tmp_path, 1)
    assert committed_steps(open_place(tmp_path)) == [2, 3, 4]
    assert execute.load(tmp_path, {"w": torch.zeros(3)}).step == 2


def test_a_run_that_begins_anew_in_an_old_store_keeps_what_it_writes(tmp_path: Path) -> None:
    for step in (18, 19, 20, 1, 2):
        execute.save(tmp_path, step, {"w": torch.full((3,), float(step))}, keep=2)
        assert step in committed_steps(open_place(tmp_path))
    assert committed_steps(open_place(tmp_path)) == [2, 19, 20]


def test_a_type_that_safetensors_do_not_have_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    execute.save(tmp_path / "store", 1, {"model": {"w": torch.ones(3, dtype=torch.complex128)}})
    with pytest.raises(UsageError, match=r"no type for torch\.complex128"):
        export_safetensors(tmp_path / "store", tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_only_what_is_surely_a_leftover_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / step_folder(7)
    folder.mkdir()
    for name in ("weights.pt", "notes.txt", "0123456789abcdef-00000-00.shard", f".{MANIFEST}.0123456789abcdef"):
        (folder / name).write_text("x")
    assert collect(f"local://{tmp_path}", 0, grace_s=3600) == []
    with monkeypatch.context() as patch:  # a store that tells no times
        ls = LocalFileSystem.ls
        patch.setattr(LocalFileSystem, "ls", lambda *a, **k: [_timeless(entry) for entry in ls(*a, **k)])
        assert collect(f"local://{tmp_path}", 0, grace_s=-1) == []
    collect(tmp_path, 0, grace_s=-1)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "weights.pt"]


def _timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in {"mtime", "created"}}


class _Retiring(LocalPlace):
    """A place whose only step is retired, and another committed, between the list and the look."""

    def read(self, folder: str, name: str) -> bytes:
        if folder == step_folder(1):
            execute.save(self.root, 2, {"w": ONES}, keep=1)
        return super().read(folder, name)


def test_a_step_retired_while_it_was_chosen_is_passed_over(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, {"w": torch.zeros(3)})
    found = {"w": torch.zeros(3)}
    assert execute.load(_Retiring(tmp_path), found).step == 2
    assert torch.equal(found["w"], ONES)
    with pytest.raises(NoCheckpoint, match="step 1 is not committed"):
        execute.load(tmp_path, found, step=1)


def test_a_manifest_whose_pieces_leave_a_hole_is_refused(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, {"w": ONES})
    honest = read_manifest(open_place(tmp_path), 1)
    body = json.loads(honest.dumps())["manifest"]
    assert body["tensors"]["w"][2]
    tensor = honest.tensors["w"]
    holed = Manifest(1, honest.token, "none", {}, None, honest.shards, {"w": type(tensor)("float32", (3,), ())})
    with pytest.raises(CorruptShard, match="do not cover"):
        parse(holed.dumps().encode(), "here")


def test_a_cache_on_a_full_disk_is_only_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TierCache(tmp_path, eviction("lru", 100))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert [cache.get("a", 3, lambda: b"abc") for _ in range(2)] == [b"abc"] * 2
    assert (cache.policy.hits, cache.policy.resident_bytes) == (0, 0)
    monkeypatch.undo()
    fetched: list[int] = []
    for _ in range(2):
        assert cache.get("a", 3, lambda: fetched.append(1) or b"abc") == b"abc"
    assert (cache.policy.hits, fetched) == (1, [1])


def test_an_interrupted_probe_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise StoreFault("the disk is gone.")

    monkeypatch.setattr("datahall.storage.execute_probe.execute.load", broken)
    with pytest.raises(StoreFault, match="gone"):
        probe_tier(tmp_path, probe_bytes=1000, rounds=1)
    assert files(tmp_path) == []
