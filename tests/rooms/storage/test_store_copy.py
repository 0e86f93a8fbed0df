"""A copy beside the next step: what is committed is the state at the call to the bit, or nothing is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from datahall.storage import execute  # noqa: E402
from datahall.storage.execute_async import BackgroundSaver  # noqa: E402
from datahall.storage.execute_copy import Copies, memory_for  # noqa: E402
from datahall.storage.faults import Torn  # noqa: E402
from datahall.storage.place import open_place  # noqa: E402
from datahall.storage.store import committed_steps  # noqa: E402

WIDTH = 640  # weights and moments of 14 MB: the copy is not over when the call returns


def model() -> torch.nn.Sequential:
    torch.manual_seed(5)
    layers = [torch.nn.Linear(WIDTH, WIDTH), torch.nn.BatchNorm1d(WIDTH), torch.nn.Dropout(0.3)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, WIDTH))


def learn(net: torch.nn.Module, optimiser: torch.optim.Optimizer, at: int) -> None:
    """A step that changes weights, moments, running means and the generator's state."""
    torch.manual_seed(at)
    net(torch.randn(16, WIDTH)).square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()


def state_of(net: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    return {**execute.training_state(net, optimiser), "random": torch.get_rng_state()}


def fresh() -> dict[str, Any]:
    """A state to load into."""
    net = model()
    return state_of(net, torch.optim.AdamW(net.parameters()))


def content(value: Any) -> Any:
    """A state as bytes and plain values: NaN equals NaN, and 0.0 is not -0.0."""
    if isinstance(value, dict):
        return {name: content(inner) for name, inner in value.items()}
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("how", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_training_at_once_after_the_call_is_not_in_the_checkpoint(tmp_path: Path, how: dict[str, bool]) -> None:
    net, plain = model(), model()
    optimiser = torch.optim.AdamW(net.parameters(), **how)
    alone = torch.optim.AdamW(plain.parameters(), **how)
    saver = BackgroundSaver(tmp_path / "background")
    saver.follow(optimiser)
    for step in range(1, 4):
        learn(net, optimiser, step)
        learn(plain, alone, step)
        execute.save(tmp_path / "loop", step, state_of(plain, alone))
        saver.save(step, state_of(net, optimiser))  # the next step begins at once
    saver.finish()
    assert content(state_of(net, optimiser)) == content(state_of(plain, alone))
    for step in range(1, 4):
        found, wanted = fresh(), fresh()
        execute.load(tmp_path / "background", found, step=step)
        execute.load(tmp_path / "loop", wanted, step=step)
        assert content(found) == content(wanted)


def test_what_no_optimiser_holds_is_copied_before_the_call_returns(tmp_path: Path) -> None:
    net = model()
    saver = BackgroundSaver(tmp_path)
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    saver.follow(optimiser)
    learn(net, optimiser, 0)
    state = {**state_of(net, optimiser), "average": torch.ones(1 << 20)}
    own = torch.Generator().manual_seed(3)
    for step in range(1, 6):
        state |= {"random": torch.get_rng_state(), "own": own.get_state()}
        kept = content(state)
        saver.save(step, state)
        state["average"].add_(1.0)  # counted
        state["average"].numpy()[:] *= 3.0  # not counted
        net(torch.randn(16, WIDTH))  # running means, the count of batches, dropout's draw
        torch.rand(10, generator=own)
        saver.finish()
        found = {**fresh(), "own": own.get_state(), "average": torch.zeros(1 << 20)}
        execute.load(tmp_path, found, step=step)
        assert content(found) == kept
        assert content(state) != kept


class Meddler:
    """Extras that change a tensor when they are copied: after the saver has looked at it, before it is copied."""

    def __init__(self, change: Callable[[], object]) -> None:
        self.change = change

    def __deepcopy__(self, memo: object) -> dict[str, int]:
        self.change()
        return {}


def _fused_step_that_nobody_follows(weight: Any) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=1e-3, fused=True).step()


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.detach()[7, 7:9].zero_(),
        lambda weight: weight.data.mul_(1.001),
        lambda weight: np.multiply(weight.detach().numpy(), 1.001, out=weight.detach().numpy()),
        _fused_step_that_nobody_follows,
    ],
    ids=["counted", "by data", "by numpy", "by a fused optimiser"],
)
def test_a_torn_state_is_never_committed(tmp_path: Path, change: Callable[[Any], object]) -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    learn(net, optimiser, 0)
    saver = BackgroundSaver(tmp_path)
    saver.follow(optimiser)
    saver.save(1, state_of(net, optimiser)).wait()
    saver.save(2, state_of(net, optimiser), Meddler(lambda: change(net[0].weight)))
    with pytest.raises(Torn, match="before_update"):
        saver.finish()
    assert committed_steps(open_place(tmp_path)) == [1]
    saver.save(2, state_of(net, optimiser)).wait()
    assert committed_steps(open_place(tmp_path)) == [1, 2]


def test_many_threads_copy_every_part_once_and_wait_for_all() -> None:
    sources = [torch.randn(9_000_000), torch.randn(64, 64).t(), torch.full((3,), float("nan")), torch.empty(0)]
    copies = Copies()
    targets = [memory_for(source) for source in sources]
    for target, source in zip(targets, sources, strict=True):
        copies.add(target, source)
    assert not copies.ended
    threads = [threading.Thread(target=copies.help) for _ in range(4)]
    for thread in threads:
        thread.start()
    copies.help()
    assert copies.ended
    for thread in threads:
        thread.join()
    copies.check()
    assert [content(target) for target in targets] == [content(source) for source in sources]
    Copies().help()


def test_loading_an_optimiser_waits_for_the_copy_too(tmp_path: Path) -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters())
    learn(net, optimiser, 0)
    other = torch.optim.AdamW(model().parameters()).state_dict()
    saver = BackgroundSaver(tmp_path)
    saver.follow(optimiser)
    pending = saver.save(1, state_of(net, optimiser))
    optimiser.load_state_dict(other)
    assert pending.copied
    assert not saver.copying
    pending.wait()
