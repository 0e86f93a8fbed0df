"""A disk that is really full: the error says so, what was committed stays, the next save finds room after `gc`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from datahall.storage import execute  # noqa: E402
from datahall.storage.faults import StoreFault  # noqa: E402
from datahall.storage.place import open_place  # noqa: E402
from datahall.storage.store import collect, committed_steps, verify  # noqa: E402

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root to mount a small disk"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_nothing_committed_is_lost_on_a_full_disk(small_disk: Path) -> None:
    store = small_disk / "store"
    state = {"weight": torch.arange(1_500_000, dtype=torch.float32)}  # 6 MB
    execute.save(store, 1, state)
    for _ in range(2):
        with pytest.raises(StoreFault, match="No space left"):
            execute.save(store, 2, state)
    assert committed_steps(open_place(store)) == [1]
    assert verify(store, 1).faults == ()
    collect(store, 0, grace_s=-1)
    execute.save(store, 2, {"weight": state["weight"][:500_000].clone()})
    assert committed_steps(open_place(store)) == [1, 2]
