"""Saves in the background, and saves that are killed: what was committed stays whole, what was not is not there."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from datahall.storage import execute  # noqa: E402
from datahall.storage.execute_async import BackgroundSaver  # noqa: E402
from datahall.storage.faults import AlreadyCommitted  # noqa: E402
from datahall.storage.place import open_place  # noqa: E402
from datahall.storage.plan import PIECE_BYTES  # noqa: E402
from datahall.storage.store import collect, committed_steps, verify  # noqa: E402

FORK = multiprocessing.get_context("fork")
SILENCE_S = 120


def state_of(step: int, count: int = 400_000) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "weight": torch.randn(count, generator=generator),
        "moments": [torch.full((count,), float(step))],
        "step": step,
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return torch.equal(one["weight"], other["weight"]) and torch.equal(one["moments"][0], other["moments"][0])


def test_what_is_saved_is_the_state_at_the_call_not_a_later_one(tmp_path: Path) -> None:
    saver = BackgroundSaver(tmp_path, keep=2)
    state = state_of(1)
    saver.prepare(state)
    for step in (1, 2, 3):
        state = state_of(step)
        pending = saver.save(step, state, {"at": step})
        state["weight"].zero_()  # training goes on
        state["moments"][0].zero_()
        assert pending.stall_s >= 0
    saved = saver.finish()
    assert saved is not None
    assert saved.step == 3
    found = state_of(0)
    loaded = execute.load(tmp_path, found)
    assert loaded.extras == {"at": 3}
    assert same(found, state_of(3))
    assert committed_steps(open_place(tmp_path)) == [2, 3]


def test_an_error_in_the_background_is_raised_at_the_next_call(tmp_path: Path) -> None:
    saver = BackgroundSaver(tmp_path)
    saver.save(1, state_of(1))
    saver.save(1, state_of(1))
    with pytest.raises(AlreadyCommitted):
        saver.save(2, state_of(2))
    saver.save(2, state_of(2))
    saver.finish()
    assert committed_steps(open_place(tmp_path)) == [1, 2]


def _memory_of_saving(store: str, codec: str, told: int) -> None:
    torch.set_num_threads(1)  # see _save_for_ever
    state = {f"layer{n}": torch.empty(8_000_000).normal_() for n in range(8)}  # 256 MB that hardly shrink, two shards
    execute.save(f"{store}/first", 1, {"layer": state["layer0"][:1000].clone()}, codec=codec)  # libraries are loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    execute.save(store, 1, state, codec=codec, shards=2)
    os.write(told, b"%d" % (1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


@pytest.mark.parametrize("codec", ["none", "planes"])
def test_saving_needs_less_memory_than_one_shard(tmp_path: Path, codec: str) -> None:
    reading, told = os.pipe()
    process = FORK.Process(target=_memory_of_saving, args=(str(tmp_path), codec, told))
    process.start()
    process.join()
    more = int(os.read(reading, 20))
    assert more < 256_000_000 / 2
    if codec == "none":
        assert more < 2 * PIECE_BYTES + (8 << 20)  # the piece that each thread writes, and no chunk


def _save_for_ever(store: str, first: int, background: bool, told: int) -> None:
    torch.set_num_threads(1)  # a forked process has none of its parent's threads, and would wait for them
    saver = BackgroundSaver(store, keep=3)
    for step in range(first, first + 10_000):
        if background:
            saver.save(step, state_of(step))
            os.write(told, b"s%08d" % step)  # staged: not committed yet
            saver.finish()
        else:
            execute.save(store, step, state_of(step), keep=3)
        os.write(told, b"c%08d" % step)


def kill_while_saving(store: Path, first: int, background: bool, wait: Callable[[Callable[[], bytes]], None]) -> int:
    """Kill a saver when `wait` returns, which reads what the saver says; the last step said to be committed (0: none).

    A word is nine bytes: s and a step that is staged, or c and one that is committed.
    """
    reading, told = os.pipe()
    process = FORK.Process(target=_save_for_ever, args=(str(store), first, background, told))
    process.start()
    os.close(told)
    said: list[bytes] = []

    def word() -> bytes:
        ready, _, _ = select.select([reading], [], [], SILENCE_S)
        assert ready, f"the saver has said nothing for {SILENCE_S} s"
        said.append(os.read(reading, 9))
        return said[-1]

    wait(word)
    assert process.is_alive()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    while word():
        pass
    os.close(reading)
    return max((int(entry[1:]) for entry in said if entry[:1] == b"c"), default=0)


def at_random(draw: random.Random) -> Callable[[Callable[[], bytes]], None]:
    """At any moment of the save after the first to third, by what one takes now, however busy the machine is."""

    def wait(word: Callable[[], bytes]) -> None:
        took_s = 0.0
        for _ in range(draw.randint(1, 3)):
            began = time.monotonic()
            while (said := word())[:1] == b"s":
                pass
            assert said, "the saver ended by itself"
            took_s = time.monotonic() - began
        time.sleep(draw.uniform(0.0, 1.2 * took_s))

    return wait


def check_after_kill(store: Path, promised: int) -> int:
    steps = committed_steps(open_place(store))
    assert not promised or (steps and steps[-1] >= promised)
    assert all(verify(store, step).faults == () for step in steps)
    if not steps:
        return 0
    found = state_of(0)
    loaded = execute.load(store, found)
    assert loaded.step == steps[-1]
    assert loaded.skipped == ()
    assert same(found, state_of(loaded.step))
    return loaded.step


def _rounds(store: Path, kills: int, seed: int) -> None:
    draw, last = random.Random(seed), 0
    for number in range(kills):
        promised = kill_while_saving(store, last + 1, number % 2 == 1, at_random(draw))
        assert promised > last
        last = check_after_kill(store, promised)
        collect(store, 0, grace_s=-1)
        assert check_after_kill(store, promised) == last


def test_killed_at_random_moments_nothing_committed_is_lost(tmp_path: Path) -> None:
    _rounds(tmp_path, 6, seed=1)


@pytest.mark.soak
def test_killed_a_hundred_times_nothing_committed_is_lost(tmp_path: Path) -> None:
    _rounds(tmp_path, 100, seed=2)


def test_killed_in_the_window_after_the_copy_the_last_committed_step_is_intact(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, state_of(1))

    def until_staged(word: Callable[[], bytes]) -> None:
        assert word() == b"s00000002"

    promised = kill_while_saving(tmp_path, 2, True, until_staged)
    assert check_after_kill(tmp_path, max(promised, 1)) >= 1
