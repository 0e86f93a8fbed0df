"""Written on two ranks, read on one and four, as FSDP, as tensor parallel: bit for bit, optimiser state included."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor, Shard  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module  # noqa: E402

from datahall.storage import execute  # noqa: E402
from datahall.storage.estimate import reshard_read_bytes  # noqa: E402
from datahall.storage.execute_async import BackgroundSaver  # noqa: E402
from datahall.storage.faults import Torn  # noqa: E402
from datahall.storage.place import LocalPlace, open_place  # noqa: E402
from datahall.storage.store import committed_steps, verify  # noqa: E402


def model() -> torch.nn.Sequential:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.ReLU(), torch.nn.Linear(40, 10))


def build(how: str, world: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    net = model()
    if how == "fsdp":
        net = fully_shard(net, mesh=init_device_mesh("cpu", (world,)))
    if how == "tensor":
        cuts = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        net = parallelize_module(net, init_device_mesh("cpu", (world,)), cuts)
    return net, torch.optim.AdamW(net.parameters(), lr=0.01)


def whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {name: whole(inner) for name, inner in value.items()}
    return value


def write(rank: int, world: int, how: str, store: str) -> None:
    net, optimiser = build(how, world)
    for _ in range(3):
        net(torch.ones(8, 24)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    state = execute.training_state(net, optimiser)
    execute.save(store, 1, state, extras={"written by": world}, codec="planes")
    reference = whole(state)
    if rank == 0:
        torch.save(reference, f"{store}.reference")


def read(rank: int, world: int, how: str, store: str, onward: str = "") -> None:
    torch.manual_seed(9)
    net, optimiser = build(how, world)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    state = execute.training_state(net, optimiser)
    loaded = execute.load(store, state)
    assert loaded.extras == {"written by": 2}
    execute.restore_training_state(net, optimiser, state)
    found, expected = whole(execute.training_state(net, optimiser)), torch.load(f"{store}.reference")
    for name, tensor in expected["model"].items():
        assert torch.equal(tensor, found["model"][name]), name
    for name, moments in expected["optimiser"]["state"].items():
        for kind, tensor in moments.items():
            assert torch.equal(tensor, found["optimiser"]["state"][name][kind]), (name, kind)
    assert expected["optimiser"]["param_groups"] == found["optimiser"]["param_groups"]
    if onward:
        execute.save(onward, 1, execute.training_state(net, optimiser), extras=loaded.extras)


def _rank(task: Callable[..., None], rank: int, world: int, port: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if world > 1:
        store = dist.TCPStore("127.0.0.1", port, world, rank == 0)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        task(rank, world, *arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # not through gloo's farewell, which waits for a dead rank
    os._exit(0)


def on_ranks(world: int, task: Callable[..., None], *arguments: Any, exits: list[int] | None = None) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(task, rank, world, port, arguments)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == (exits or [0] * world)


def test_two_ranks_to_one_to_four_and_fsdp_to_tensor_parallel(tmp_path: Path) -> None:
    store, onward = str(tmp_path / "store"), str(tmp_path / "onward")
    on_ranks(2, write, "fsdp", store)
    assert verify(store, 1).faults == ()
    on_ranks(1, read, "plain", store, onward)
    os.link(f"{store}.reference", f"{onward}.reference")
    on_ranks(4, read, "fsdp", onward)  # what one rank wrote of what two ranks wrote
    on_ranks(2, read, "tensor", store)


class _Counting(LocalPlace):
    """A place that counts the bytes of shards that are read."""

    count = 0

    def read_into(self, folder: str, name: str, offset: int, target: memoryview) -> int:
        self.count += len(target)
        return super().read_into(folder, name, offset, target)


def _cut_both_ways(rank: int, world: int, store: str) -> None:
    for axis in (0, 1):
        _cut(rank, world, store, axis)


def _cut(rank: int, world: int, store: str, axis: int) -> None:
    rows, columns = 3072, 1024  # 12 MiB, written whole: three chunks for four ranks
    part = torch.zeros(rows // world, columns) if axis == 0 else torch.zeros(rows, columns // world)
    mesh = init_device_mesh("cpu", (world,))
    state = {"weight": DTensor.from_local(part, mesh, [Shard(axis)], run_check=False)}
    place = _Counting(Path(store))
    execute.load(place, state)
    whole_tensor = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    assert torch.equal(state["weight"].to_local(), whole_tensor.chunk(world, axis)[rank])
    size, wanted = rows * columns * 4, rows // world * columns * 4
    expected = reshard_read_bytes(size, rank * wanted, wanted) if axis == 0 else size
    assert place.count == int(expected)


def test_a_resharding_reads_the_bytes_that_were_forecast(tmp_path: Path) -> None:
    store = tmp_path / "store"
    execute.save(store, 1, {"weight": torch.arange(3072 * 1024, dtype=torch.float32).reshape(3072, 1024)})
    on_ranks(4, _cut_both_ways, str(store))


def _damaged(rank: int, world: int, store: str) -> None:
    state = {"weight": torch.zeros(64, 64)}
    loaded = execute.load(store, state)
    assert loaded.step == 1
    assert [step for step, _ in loaded.skipped] == [2]
    assert torch.equal(state["weight"], torch.ones(64, 64))


def test_all_ranks_fall_back_together(tmp_path: Path) -> None:
    store = tmp_path / "store"
    execute.save(store, 1, {"weight": torch.ones(64, 64)})
    execute.save(store, 2, {"weight": torch.full((64, 64), 2.0)})
    shard = next((store / "step-00000002").glob("*.shard"))
    shard.write_bytes(b"\0" + shard.read_bytes()[1:-1] + b"\1")
    on_ranks(2, _damaged, str(store))


def _background(rank: int, world: int, store: str) -> None:
    net, optimiser = build("fsdp", world)
    saver = BackgroundSaver(store, keep=1)
    saver.follow(optimiser)
    for step in (1, 2):
        net(torch.full((8, 24), float(step))).square().mean().backward()
        optimiser.step()
        state = execute.training_state(net, optimiser)
        kept = whole(state)
        saver.save(step, state, {"at": step})
        net(torch.ones(8, 24)).sum().backward()  # training goes on; what is being saved must not see it
        dist.all_reduce(torch.ones(1))  # the loop's own messages meanwhile
        optimiser.step()
    saver.finish()
    _torn_on_one(rank, saver, net, optimiser)
    found = execute.training_state(*build("fsdp", world))
    assert execute.load(store, found).extras == {"at": 2}
    for name, tensor in whole(found)["model"].items():
        assert torch.equal(tensor, kept["model"][name]), name


def _torn_on_one(rank: int, saver: BackgroundSaver, net: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """One rank changes what it holds without a word: no rank commits, and all are told."""
    state = execute.training_state(net, optimiser)
    saver.save(3, state, _Meddler(net) if rank else {})
    with pytest.raises(Torn):
        saver.finish()


class _Meddler:
    """Extras that, when they are copied, change the weights that the saver has looked at and not copied yet."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.net = net

    def __deepcopy__(self, memo: object) -> dict[str, int]:
        for parameter in self.net.parameters():
            parameter.to_local().data.add_(1.0)
        return {}


def test_two_ranks_save_in_the_background_while_they_talk(tmp_path: Path) -> None:
    on_ranks(2, _background, str(tmp_path / "store"))


def _one_dies(rank: int, world: int, store: str) -> None:
    state = {"weight": torch.full((1000,), 2.0), "rank": rank}
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(Exception, match=r".+"):
        execute.save(store, 2, state)


def test_a_rank_that_dies_while_saving_leaves_the_step_uncommitted(tmp_path: Path) -> None:
    store = tmp_path / "store"
    execute.save(store, 1, {"weight": torch.ones(1000)})
    on_ranks(2, _one_dies, str(store), exits=[0, -signal.SIGKILL])
    assert committed_steps(open_place(store)) == [1]
    assert verify(store, 1).faults == ()
