"""Codecs between two real processes: an observer's bytes equal the formula; error feedback leaves nothing out."""

import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from datahall.network.compress import NAMES, codec_of, handed_bytes  # noqa: E402
from datahall.network.execute_compress import Exchange, LocalUpdates, install  # noqa: E402
from datahall.network.plan import NetworkPlan  # noqa: E402

RANKS = 2
STEPS = 12


class CollectiveCount(TorchDispatchMode):
    """An observer at PyTorch's dispatcher: bytes and calls handed to collectives inside the `with` block.

    It sees DDP's own calls too and knows no formula.  Of a gather it counts the input, of a reduction the tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, then let the call pass."""
        name = str(func)
        if name.startswith("c10d."):
            kind = name.split(".")[1].strip("_")
            self.calls[kind] = self.calls.get(kind, 0) + 1
            handed = args[1] if "gather" in kind else args[0]
            self.bytes += sum(t.numel() * t.element_size() for t in tree_leaves(handed) if isinstance(t, torch.Tensor))
        return func(*args, **(kwargs or {}))


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(40, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10))


def ddp_run(rank: int, plan: NetworkPlan) -> tuple[int, list[float], list[float]]:
    """A few DDP steps: bytes that the observer saw, losses, and the weights' fingerprint."""
    model = torch.nn.parallel.DistributedDataParallel(net(), bucket_cap_mb=plan.bucket_bytes / 2**20)
    install(model, plan)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    chance = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(STEPS):
        features = torch.randn(64, 40, generator=chance)
        targets = (features[:, :10].argmax(1)).long()
        with CollectiveCount() as count:
            loss = torch.nn.functional.cross_entropy(model(features), targets)
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return count.bytes, losses, [p.sum().item() for p in model.parameters()]


def local_run(rank: int, plan: NetworkPlan) -> tuple[int, list[float], list[float]]:
    model = net(rank)  # different starts: the first exchange must bring the ranks together up to the anchor
    with torch.no_grad():
        for mine, first in zip(model.parameters(), net(0).parameters(), strict=True):
            mine.copy_(first)
    updates = LocalUpdates(model.parameters(), plan)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    chance = torch.Generator().manual_seed(rank)
    losses, total = [], 0
    for step in range(1, STEPS + 1):
        features = torch.randn(64, 40, generator=chance)
        loss = torch.nn.functional.cross_entropy(model(features), features[:, :10].argmax(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with CollectiveCount() as count:
            updates.after_step(step)
        total += count.bytes
        losses.append(loss.item())
    return total, losses, [p.sum().item() for p in model.parameters()]


def feedback_run(rank: int, name: str) -> float:
    """The same gradient again and again: the mean of what arrives tends to the gradient; the largest error."""
    exchange = Exchange(codec_of(NetworkPlan(compression=name, kept_share=0.2)))
    shapes = [(30, 20), (20,)]
    chance = torch.Generator().manual_seed(5)
    wanted = torch.randn(620, generator=chance)
    total = torch.zeros(620)
    for _ in range(60):
        total += exchange.start(0, wanted * (1 + rank) / 1.5, shapes).wait()
    return float((total / 60 - wanted).abs().max())


def play(rank: int, store: str, pipe: Connection) -> None:
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=RANKS)
    answers: dict[str, Any] = {name: ddp_run(rank, NetworkPlan(compression=name)) for name in NAMES}
    answers["local"] = local_run(rank, NetworkPlan(local_steps=4))
    answers["diloco"] = local_run(rank, NetworkPlan(local_steps=4, outer_momentum=0.5, compression="int8"))
    answers["feedback"] = {name: feedback_run(rank, name) for name in NAMES}
    pipe.send(answers)


@pytest.fixture(scope="module")
def played() -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=play, args=(rank, f"{folder}/store", theirs)))
            processes[-1].start()
            pipes.append(ours)
        answers = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join(60)
    return answers


SHAPES = [(64, 40), (64,), (10, 64), (10,)]


@pytest.mark.parametrize("name", NAMES)
def test_the_observer_sees_the_formulas_bytes(played: list[dict[str, Any]], name: str) -> None:
    assert played[0][name][0] == handed_bytes(codec_of(NetworkPlan(compression=name)), SHAPES)


@pytest.mark.parametrize("name", [*NAMES, "local", "diloco"])
def test_ranks_agree_and_the_loss_falls(played: list[dict[str, Any]], name: str) -> None:
    assert played[0][name][2] == pytest.approx(played[1][name][2], abs=1e-5)
    assert played[0][name][1][-1] < played[0][name][1][0]


def test_local_updates_exchange_every_fourth_step(played: list[dict[str, Any]]) -> None:
    plain = handed_bytes(codec_of(NetworkPlan()), SHAPES)
    assert played[0]["local"][0] == STEPS // 4 * plain
    assert played[0]["diloco"][0] == STEPS // 4 * handed_bytes(codec_of(NetworkPlan(compression="int8")), SHAPES)


@pytest.mark.parametrize(
    ("name", "most"), [("none", 1e-5), ("bf16", 0.02), ("int8", 1e-3), ("top-k", 0.4), ("powersgd", 0.4)]
)
def test_what_a_codec_leaves_out_comes_later(played: list[dict[str, Any]], name: str, most: float) -> None:
    assert played[0]["feedback"][name] < most
