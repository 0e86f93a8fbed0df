"""What people really hand to a store: odd tensors, keys and values come back, or are refused by name."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
LocalFileSystem = pytest.importorskip("fsspec.implementations.local").LocalFileSystem

from datahall.base.errors import UsageError  # noqa: E402
from datahall.storage import execute  # noqa: E402
from datahall.storage.execute_async import BackgroundSaver  # noqa: E402
from datahall.storage.faults import StoreFault, Unsafe  # noqa: E402
from datahall.storage.place import open_place  # noqa: E402
from datahall.storage.store import committed_steps, verify  # noqa: E402

ONES = torch.ones(3)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_odd_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    turned = torch.tensor([1 + 2j, 3 - 4j])
    state = {
        "conjugated": turned.conj(),
        "negated": torch._neg_view(torch.arange(4.0)),
        "spread out": torch.arange(3.0).expand(2, 3),
        "every other": torch.arange(10)[::2],
        "none": torch.empty(3, 0),
        "single": torch.tensor(2**40),
        "a/b/../c": ONES,
        "..": ONES,
        "Ümläut ☃": ONES,
        "e8m0 as bytes": torch.ones(4).to(torch.float8_e8m0fnu).view(torch.uint8),
    }
    execute.save(tmp_path, 0, state)
    found = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in state.items()}
    assert execute.load(tmp_path, found).step == 0
    for name, tensor in state.items():
        assert found[name].tolist() == tensor.tolist(), name
    assert verify(tmp_path, 0).faults == ()


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (torch.empty(3, device="meta"), "meta device"),
        (torch.eye(3).to_sparse(), "sparse tensor cannot"),
        (torch.eye(3).to_sparse_csr(), "sparse tensor cannot"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested tensor cannot"),
        (torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), "quantised tensor cannot"),
        (torch.ones(3).to(torch.float8_e4m3fnuz), "float8_e4m3fnuz cannot"),
        ((ONES, ONES), "Make it a list"),
        (np.ones(3), "torch.from_numpy"),
        (np.int64(3), "item"),
        (b"bytes", "torch.frombuffer"),
        ({1, 2}, "sorted list"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path: Path, odd: Any, told: str) -> None:
    with pytest.raises(Unsafe, match=told) as refused:
        execute.save(tmp_path, 1, {"fine": torch.ones(1000), "layers": [{"odd": odd}]})
    assert "layers.0.odd" in str(refused.value)
    assert files(tmp_path) == []
    saver = BackgroundSaver(tmp_path)
    with pytest.raises(Unsafe, match=told):
        _ = saver.save(1, {"odd": odd}).wait()
    assert files(tmp_path) == []


def test_numbers_as_keys_are_filled_in_place(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    saved = {"optimiser": optimiser.state_dict(), "deep": {0: {1: "x"}, "2": 3}}
    saved["optimiser"]["state"] = {0: {"momentum_buffer": None, "sum": ONES}, 1: {"momentum_buffer": 2.5}}
    execute.save(tmp_path, 1, saved)
    found: dict[Any, Any] = {"optimiser": optimiser.state_dict(), "deep": {0: {1: None}, "2": None}}
    found["optimiser"]["state"] = {0: {"momentum_buffer": 1, "sum": torch.zeros(3)}, 1: {"momentum_buffer": None}}
    execute.load(tmp_path, found)
    state = found["optimiser"]["state"]
    assert list(state) == [0, 1]
    assert (state[0]["momentum_buffer"], state[1]) == (None, {"momentum_buffer": 2.5})
    assert torch.equal(state[0]["sum"], ONES)
    assert found["deep"] == {0: {1: "x"}, "2": 3}
    for wrong in (execute.save, lambda store, _, state: execute.load(store, state)):
        with pytest.raises(UsageError, match="several types"):
            wrong(tmp_path, 2, {"a": ONES, 7: ONES})


def test_what_nobody_asked_for_is_told(tmp_path: Path) -> None:
    execute.save(tmp_path, 1, {"model": {"w": ONES}, "optimiser": {"state": {0: {"m": ONES}}, "lr": 1}})
    found = {"model": {"w": torch.zeros(3)}, "optimiser": {"state": {}, "lr": None}}
    assert execute.load(tmp_path, found).unread == ("optimiser.state.0.m",)
    assert execute.load(tmp_path, found, step=1).unread == ("optimiser.state.0.m",)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"weihgt": torch.zeros(3)}, "no 'weihgt'.*nearest name there is 'weight'"),
        ({"weight": torch.zeros(4)}, r"shape \(3,\) in the checkpoint and \(4,\) in the state"),
        ({"weight": None}, "a tensor in the checkpoint and a NoneType"),
        ({"weight": torch.zeros(3, device="meta")}, "meta device"),
    ],
)
def test_a_state_that_does_not_fit_is_told_why(tmp_path: Path, state: dict[str, Any], told: str) -> None:
    execute.save(tmp_path, 1, {"weight": ONES})
    with pytest.raises(StoreFault, match=told):
        execute.load(tmp_path, state)


def test_steps_extras_and_run_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    for step in (-1, 1.0, "1", None):
        with pytest.raises(UsageError, match="step"):
            execute.save(tmp_path, step, {"w": ONES})
    for wrong in ({(1, 2): 3}, {1: 3}, {"deep": [object()]}):
        with pytest.raises(Unsafe, match="extras"):
            execute.save(tmp_path, 1, {"w": ONES}, extras=wrong)
        with pytest.raises(Unsafe, match="run"):
            execute.save(tmp_path, 1, {"w": ONES}, run={"wrong": wrong})
    assert files(tmp_path) == []
    execute.save(tmp_path, np.int64(3), {"w": ONES})
    execute.save(tmp_path, torch.tensor(4), {"w": ONES})
    assert committed_steps(open_place(tmp_path)) == [3, 4]


def test_named_tuples_are_saved_in_the_background_too(tmp_path: Path) -> None:
    point = namedtuple("point", "x y")(1, 2)
    saver = BackgroundSaver(tmp_path)
    saver.save(1, {"at": point, "w": ONES})
    saver.finish()
    found = {"at": None, "w": torch.zeros(3)}
    execute.load(tmp_path, found)
    assert found["at"] == (1, 2)


def test_counters_stay_exact_where_weights_are_rounded(tmp_path: Path) -> None:
    state = {"weight": torch.randn(1000), "step": torch.tensor(1001.0), "few": torch.full((7,), 1 / 3)}
    for step, codec in enumerate(("lossy-bf16", "lossy-int8")):
        execute.save(tmp_path, step, state, codec=codec, allow_loss=True)
        found = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        execute.load(tmp_path, found)
        assert not torch.equal(found["weight"], state["weight"])
        assert torch.equal(found["step"], state["step"])
        assert torch.equal(found["few"], state["few"])
