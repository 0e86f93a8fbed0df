"""The store on a real S3 gateway: bit for bit, damage found, a gateway killed in the middle loses nothing committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
s3fs = pytest.importorskip("s3fs")

from ceph import ACCESS, SECRET, Ceph, available  # noqa: E402

from datahall.storage import execute  # noqa: E402
from datahall.storage.cache import CachedPlace, TierCache  # noqa: E402
from datahall.storage.eviction import eviction  # noqa: E402
from datahall.storage.execute_probe import probe_tier  # noqa: E402
from datahall.storage.faults import AlreadyCommitted, NoCheckpoint, StoreFault  # noqa: E402
from datahall.storage.manifest import MANIFEST, step_folder  # noqa: E402
from datahall.storage.place import open_place  # noqa: E402
from datahall.storage.remote import RemotePlace  # noqa: E402
from datahall.storage.store import collect, committed_steps, read_manifest, verify  # noqa: E402

pytestmark = [pytest.mark.system, pytest.mark.skipif(not available(), reason="needs root and the Ceph packages")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    ceph = Ceph(tmp_path_factory.mktemp("ceph"))
    patch = pytest.MonkeyPatch()
    try:
        ceph.start()
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_ENDPOINT_URL", ceph.url)
        patch.setenv("AWS_REGION", "default")
        patch.setenv("AWS_MAX_ATTEMPTS", "2")
        s3fs.S3FileSystem().mkdir("checkpoints")
        yield ceph
    finally:
        patch.undo()
        ceph.stop()


def state_of(step: int, count: int = 8_000_000) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {"model": {"weight": torch.randn(count, generator=generator)}, "optimiser": {"step": step}}


def holds(url: str, step: int) -> bool:
    found = state_of(0)
    loaded = execute.load(url, found, step=step)
    return loaded.step == step and torch.equal(found["model"]["weight"], state_of(step)["model"]["weight"])


def test_saved_loaded_verified_and_retired(cluster: Ceph) -> None:
    url = "s3://checkpoints/plain"
    for step in (1, 2, 3):
        saved = execute.save(url, step, state_of(step), codec="planes" if step == 3 else "none", keep=2)
        assert saved.raw_bytes == 32_000_000
    place = open_place(url)
    assert committed_steps(place) == [2, 3]
    assert verify(url, 2).faults == verify(url, 3).faults == ()
    assert holds(url, 2)
    assert holds(url, 3)
    with pytest.raises(AlreadyCommitted):
        execute.save(url, 3, state_of(4))
    with pytest.raises(NoCheckpoint):
        execute.load("s3://checkpoints/nothing", state_of(0))


def test_the_tier_is_probed_through_the_real_writer_and_left_clean(cluster: Ceph) -> None:
    tier = probe_tier("s3://checkpoints/probed", probe_bytes=16 << 20, rounds=1)
    assert 1e6 < tier.write_bytes_per_s < 1e11
    assert 1e6 < tier.read_bytes_per_s < 1e11
    assert tier.latency_s > 0
    assert not s3fs.S3FileSystem(skip_instance_cache=True).find("checkpoints/probed")


def test_of_two_writers_in_the_same_moment_the_gateway_lets_one_commit(
    cluster: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "s3://checkpoints/race"
    # both have looked before either puts: what decides is the gateway's own condition
    monkeypatch.setattr(
        RemotePlace, "files", lambda self, folder, files=RemotePlace.files: _without_manifest(files(self, folder))
    )
    gate = threading.Barrier(2)
    commit = RemotePlace.commit

    def together(self: RemotePlace, *arguments: Any) -> None:
        gate.wait(60)
        commit(self, *arguments)

    monkeypatch.setattr(RemotePlace, "commit", together)
    outcome: list[Any] = []

    def write(number: int) -> None:
        try:
            outcome.append((number, execute.save(url, 1, state_of(number, 100_000))))
        except AlreadyCommitted as refused:
            outcome.append((number, refused))

    writers = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    monkeypatch.undo()
    winners = [number for number, entry in outcome if not isinstance(entry, AlreadyCommitted)]
    assert len(winners) == 1
    assert len(outcome) == 2
    found = state_of(0, 100_000)
    assert execute.load(url, found).step == 1
    assert torch.equal(found["model"]["weight"], state_of(winners[0], 100_000)["model"]["weight"])
    assert verify(url, 1).faults == ()
    monkeypatch.setattr(RemotePlace, "files", lambda self, folder: {})  # late by a whole save, past its own look
    with pytest.raises(AlreadyCommitted):
        open_place(url).commit(step_folder(1), MANIFEST, b"another", False)


def _without_manifest(files: dict[str, tuple[int, float]]) -> dict[str, tuple[int, float]]:
    return {name: about for name, about in files.items() if name != MANIFEST}


def test_a_damaged_object_is_named_and_the_previous_step_used(cluster: Ceph) -> None:
    url = "s3://checkpoints/damaged"
    execute.save(url, 1, state_of(1))
    execute.save(url, 2, state_of(2))
    name = read_manifest(open_place(url), 2).shards[0].name
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    path = f"checkpoints/damaged/{step_folder(2)}/{name}"
    data = bytearray(files.cat_file(path))
    data[len(data) // 2] ^= 1
    files.pipe_file(path, bytes(data))
    assert any(name in fault for fault in verify(url, 2).faults)
    found = state_of(0)
    loaded = execute.load(url, found)
    assert loaded.step == 1
    assert name in loaded.skipped[0][1]


def test_a_cache_before_the_gateway_answers_the_second_time(cluster: Ceph, tmp_path: Path) -> None:
    url = "s3://checkpoints/cached"
    execute.save(url, 1, state_of(1))
    cache = TierCache(tmp_path, eviction("lru", 1 << 30))
    for _ in range(2):
        found = state_of(0)
        execute.load(CachedPlace(open_place(url), cache), found)
        assert torch.equal(found["model"]["weight"], state_of(1)["model"]["weight"])
    assert cache.policy.hits == cache.policy.misses > 0


@pytest.mark.parametrize("delay_s", [0.05, 0.3])
def test_a_gateway_killed_in_the_middle_of_an_upload_loses_nothing_committed(cluster: Ceph, delay_s: float) -> None:
    url = f"s3://checkpoints/killed-{int(100 * delay_s)}"
    execute.save(url, 1, state_of(1))
    outcome: list[Any] = []

    def write() -> None:
        try:
            outcome.append(execute.save(url, 2, state_of(2, 40_000_000), shards=2))
        except StoreFault as fault:
            outcome.append(fault)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(delay_s)
    cluster.kill("rgw")
    writer.join(120)
    assert not writer.is_alive()
    cluster.start_gateway()
    assert isinstance(outcome[0], StoreFault)  # no answer means no commit is claimed
    assert committed_steps(open_place(url)) == [1]
    assert verify(url, 1).faults == ()
    assert holds(url, 1)
    execute.save(url, 2, state_of(2))
    assert holds(url, 2)
    collect(url, 0, grace_s=-1)
    assert holds(url, 2)


def test_a_gateway_away_for_a_moment_is_tried_again(cluster: Ceph) -> None:
    url = "s3://checkpoints/away"
    execute.save(url, 1, state_of(1))
    cluster.kill("rgw")
    back = threading.Timer(0.5, cluster.start_gateway)
    back.start()
    try:
        found = state_of(0)
        assert execute.load(url, found).step == 1
        assert torch.equal(found["model"]["weight"], state_of(1)["model"]["weight"])
    finally:
        back.join()
