"""Saving and loading on one process: bit for bit, committed at once, damage found and named."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from datahall.storage import execute  # noqa: E402
from datahall.storage.codec import CODECS  # noqa: E402
from datahall.storage.faults import AlreadyCommitted, CorruptShard, NoCheckpoint, StoreFault, Unsafe  # noqa: E402
from datahall.storage.manifest import MANIFEST, Manifest, Shard, parse, step_folder  # noqa: E402
from datahall.storage.place import open_place  # noqa: E402
from datahall.storage.store import collect, committed_steps, read_manifest, verify  # noqa: E402


def a_state(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model": {
            "weight": torch.randn(300, 700, generator=generator),
            "half": torch.randn(1000, generator=generator).to(torch.bfloat16),
            "turned": torch.randn(40, 50, generator=generator).t(),
            "count": torch.tensor(7 + seed),
            "mask": torch.rand(33, generator=generator) > 0.5,
            "empty": torch.empty(0, 4),
        },
        "optimiser": {
            "step": 12 + seed,
            "betas": (0.9, 0.95),
            "names": ["a", "b"],
            "nan": float("inf"),
            "groups": [{"lr": 0.1}],
        },
    }


def blank() -> dict[str, Any]:
    state = a_state(99)
    state["model"] = {name: torch.zeros_like(tensor) for name, tensor in state["model"].items()}
    return state


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    tensors = all(torch.equal(tensor, other["model"][name]) for name, tensor in one["model"].items())
    return tensors and one["optimiser"] == other["optimiser"]


@pytest.mark.parametrize("codec", [name for name, entry in CODECS.items() if entry.lossless])
def test_a_state_comes_back_bit_for_bit_with_every_codec(tmp_path: Path, codec: str) -> None:
    if codec in {"blosc2", "zipnn", "snappy"}:
        pytest.importorskip({"snappy": "cramjam"}.get(codec, codec))
    saved = execute.save(tmp_path, 5, a_state(), extras={"position": [1, 2]}, run={"name": "a run"}, codec=codec)
    state = blank()
    loaded = execute.load(tmp_path, state)
    assert equal(a_state(), state)
    assert (loaded.step, loaded.extras, loaded.run) == (5, {"position": [1, 2]}, {"name": "a run"})
    assert saved.stored_bytes <= saved.raw_bytes
    assert verify(tmp_path, 5).faults == ()


@pytest.mark.parametrize("codec", ["lossy-bf16", "lossy-int8"])
def test_a_lossy_codec_must_be_allowed_and_stays_within_its_error(tmp_path: Path, codec: str) -> None:
    with pytest.raises(StoreFault, match="allow_loss"):
        execute.save(tmp_path, 1, a_state(), codec=codec)
    execute.save(tmp_path, 1, a_state(), codec=codec, allow_loss=True)
    state = blank()
    execute.load(tmp_path, state)
    before, after = a_state()["model"], state["model"]
    error = (before["weight"] - after["weight"]).abs()
    bound = before["weight"].abs() * 2**-8 if codec == "lossy-bf16" else before["weight"].abs().max() / 254
    assert bool((error <= bound * 1.0001).all())
    assert not torch.equal(before["weight"], after["weight"])
    assert torch.equal(before["half"], after["half"])  # only fp32 is touched


def test_the_newest_step_is_loaded_and_old_ones_retire(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        execute.save(tmp_path, step, a_state(step), keep=2)
    assert committed_steps(open_place(tmp_path)) == [2, 3]
    state = blank()
    assert execute.load(tmp_path, state).step == 3
    assert equal(a_state(3), state)
    assert execute.load(tmp_path, state, step=2).step == 2
    assert equal(a_state(2), state)


def check_one_bit(store: Path, step: int, path: Path, whole: bytes, position: int, draw: random.Random) -> None:
    """Write `whole` with one bit turned at this position, and look that exactly this file is named."""
    damaged = bytearray(whole)
    damaged[position] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)
    faults = verify(store, step).faults
    assert len(faults) == 1, (path.name, position)
    assert path.name in faults[0]


def test_any_changed_byte_is_found_the_shard_named_and_the_previous_step_used(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, a_state(1))
    execute.save(tmp_path, 2, a_state(2), codec="planes")
    folder = tmp_path / step_folder(2)
    draw = random.Random(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for position in [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(10))]:
            check_one_bit(tmp_path, 2, path, whole, position, draw)
        state = blank()
        loaded = execute.load(tmp_path, state)
        assert loaded.step == 1
        assert equal(a_state(1), state)
        assert [step for step, _ in loaded.skipped] == [2]
        assert path.name in loaded.skipped[0][1]
        with pytest.raises(CorruptShard, match=path.name.replace(".", r"\.")):
            execute.load(tmp_path, blank(), step=2)
        path.write_bytes(whole)
    assert verify(tmp_path, 2).faults == ()


def test_each_single_byte_of_a_checkpoint_is_watched(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, {"weight": torch.arange(100, dtype=torch.float32), "bias": torch.ones(30)}, shards=2)
    draw = random.Random(0)
    for path in sorted((tmp_path / step_folder(1)).iterdir()):
        whole = path.read_bytes()
        for position in range(len(whole)):
            check_one_bit(tmp_path, 1, path, whole, position, draw)
        path.write_bytes(whole)
    assert verify(tmp_path, 1).faults == ()


def test_truncated_swapped_missing_and_lengthened_shards_are_named_and_the_step_before_is_used(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, a_state(1))
    execute.save(tmp_path, 2, a_state(2))
    shards = sorted((tmp_path / step_folder(2)).glob("*.shard"))
    one, two = shards[0].read_bytes(), shards[1].read_bytes()

    def faulty(*named: Path) -> None:
        faults = verify(tmp_path, 2).faults
        assert {path.name for path in shards if any(path.name in fault for fault in faults)} == {p.name for p in named}
        with pytest.raises(CorruptShard, match="|".join(path.name for path in named)):
            execute.load(tmp_path, blank(), step=2)
        state = blank()
        assert execute.load(tmp_path, state).step == 1
        assert equal(a_state(1), state)

    shards[0].write_bytes(one[:-1])
    faulty(shards[0])
    shards[0].write_bytes(two)
    shards[1].write_bytes(one)
    faulty(shards[0], shards[1])
    shards[1].write_bytes(two)
    shards[0].unlink()
    faulty(shards[0])
    shards[0].write_bytes(one + b"x")
    assert any(shards[0].name in fault for fault in verify(tmp_path, 2).faults)
    shards[0].write_bytes(one)
    assert not verify(tmp_path, 2).faults


def test_a_pickle_in_the_place_of_tensors_is_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    execute.save(tmp_path, 1, a_state())
    for path in (tmp_path / step_folder(1)).iterdir():
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(CorruptShard, match=path.name.replace(".", r"\.")):
            execute.load(tmp_path, blank(), step=1)
        path.write_bytes(whole)
    for path in (tmp_path / step_folder(1)).iterdir():
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(NoCheckpoint, match="Step 1"):
        execute.load(tmp_path, blank())
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(StoreFault, match="Bomb cannot be stored"):
        execute.save(tmp_path, 2, {"object": Bomb()})
    assert committed_steps(open_place(tmp_path)) == [1]


def test_a_name_that_leaves_the_store_is_refused(tmp_path: Path) -> None:
    execute.save(tmp_path / "store", 1, a_state())
    place = open_place(tmp_path / "store")
    honest = read_manifest(place, 1)
    (tmp_path / "outside.shard").write_bytes(b"secret")
    for name in ("../../outside.shard", "/etc/passwd", "..", ".hidden", "a/b.shard"):
        forged = Manifest(1, honest.token, "none", {}, None, (Shard(name, 6),), {}, {}, {})
        with pytest.raises(Unsafe, match="no shard of this folder"):
            parse(forged.dumps().encode(), "here")
    shard = next((tmp_path / "store" / step_folder(1)).glob("*.shard"))
    moved = tmp_path / "moved.shard"
    shard.rename(moved)
    shard.symlink_to(moved)
    with pytest.raises(StoreFault):
        execute.load(tmp_path / "store", blank(), step=1)
    assert verify(tmp_path / "store", 1).faults


@pytest.mark.parametrize("replace", [False, True])
def test_of_several_writers_on_one_step_one_is_there_in_the_end_and_whole(tmp_path: Path, replace: bool) -> None:
    outcome: list[Any] = []

    def write(seed: int) -> None:
        try:
            execute.save(tmp_path, 1, a_state(seed), replace=replace)
            outcome.append(seed)
        except AlreadyCommitted as error:
            outcome.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [entry for entry in outcome if isinstance(entry, int)]
    assert len(outcome) == 3
    assert len(winners) == (3 if replace else 1)
    state = blank()
    execute.load(tmp_path, state)
    assert any(equal(a_state(winner), state) for winner in winners)
    assert verify(tmp_path, 1).faults == ()
    collect(tmp_path, 0, grace_s=-1)
    assert verify(tmp_path, 1).faults == ()
    held = {path.name for path in (tmp_path / step_folder(1)).iterdir()}
    assert held == {MANIFEST, *(shard.name for shard in read_manifest(open_place(tmp_path), 1).shards)}


def test_a_committed_step_is_written_anew_only_on_demand(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, a_state(1))
    with pytest.raises(AlreadyCommitted):
        execute.save(tmp_path, 1, a_state(2))
    execute.save(tmp_path, 1, a_state(2), replace=True)
    state = blank()
    execute.load(tmp_path, state)
    assert equal(a_state(2), state)
    held = {path.name for path in (tmp_path / step_folder(1)).iterdir()}
    assert held == {MANIFEST, *(shard.name for shard in read_manifest(open_place(tmp_path), 1).shards)}


def test_a_full_disk_is_a_clear_error_and_nothing_is_lost(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, a_state(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreFault, match="writing failed"):
            execute.save(tmp_path, 2, a_state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    state = blank()
    assert execute.load(tmp_path, state).step == 1
    assert equal(a_state(1), state)
    collect(tmp_path, 0, grace_s=-1)
    assert not (tmp_path / step_folder(2)).exists()


def test_leftovers_of_a_save_in_progress_stay_until_they_are_old(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, a_state())
    stray = tmp_path / step_folder(2) / "0123456789abcdef-00000-00.shard"
    stray.parent.mkdir()
    stray.write_bytes(b"half")
    assert committed_steps(open_place(tmp_path)) == [1]
    assert collect(tmp_path, 0) == []
    assert [entry.path for entry in collect(tmp_path, 0, now_s=stray.stat().st_mtime + 4000, dry=True)]
    assert stray.exists()
    collect(tmp_path, 0, now_s=stray.stat().st_mtime + 4000)
    assert not stray.parent.exists()


def test_a_missing_tensor_is_an_error_that_does_not_fall_back(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, a_state())
    state = blank()
    state["model"]["new"] = torch.zeros(3)
    with pytest.raises(StoreFault, match="new"):
        execute.load(tmp_path, state)
    with pytest.raises(NoCheckpoint):
        execute.load(tmp_path / "nowhere", blank())


def test_a_state_without_tensors_is_a_checkpoint_too(tmp_path: Path) -> None:
    execute.save(tmp_path / "new", 3, {"epoch": 7}, extras={"position": 12})
    state = {"epoch": 0}
    assert execute.load(tmp_path / "new", state).extras == {"position": 12}
    assert state == {"epoch": 7}
    assert verify(tmp_path / "new", 3).faults == ()


def test_the_manifest_is_json_that_people_can_read(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, a_state(), run={"commit": "abc"})
    text = (tmp_path / step_folder(1) / MANIFEST).read_text()
    manifest = json.loads(text)["manifest"]
    assert manifest["run"] == {"commit": "abc"}
    assert manifest["tensors"]["model.weight"][:2] == ["float32", [300, 700]]


def test_a_store_behind_fsspec_behaves_alike(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = f"local://{tmp_path}/remote"
    execute.save(url, 1, a_state(1), codec="planes")
    execute.save(url, 2, a_state(2))
    with pytest.raises(AlreadyCommitted):
        execute.save(url, 2, a_state(2))
    state = blank()
    assert execute.load(url, state).step == 2
    assert equal(a_state(2), state)
    assert verify(url, 1).faults == ()
    collect(url, 1)
    assert committed_steps(open_place(url)) == [2]
