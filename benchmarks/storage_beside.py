"""What a background save costs the training beside it: `storage_speed`'s part with a real model.

A transformer of width 1024 with AdamW trains on one and on two threads.  In every round the same few steps run without
a save and with one that begins before them, and the state is saved in the loop; who begins changes from round to round.
Held is the time of the call and of the wait before the next update; added is by how much the steps with a save took
longer in all, the call and whatever copying and writing took from them included.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from datahall.storage import execute
from datahall.storage.execute_async import BackgroundSaver

WIDTH, HEADS, VOCABULARY, TOKENS = 1024, 16, 32000, 128
THREADS = (1, 2)
STEPS = 2  # a save has ended before they have


class Trained(nn.Module):
    """A small language model, its output tied to its embedding, so that all but a fiftieth of it are large matrices."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        nn.init.normal_(self.embedding.weight, 0.0, 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """The loss of guessing each word from those before it."""
        hidden = self.embedding(words)
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        guess = functional.linear(hidden, self.embedding.weight)
        return functional.cross_entropy(guess[:, :-1].flatten(0, 1), words[:, 1:].flatten())


@dataclass(slots=True)
class Beside:
    """Seconds on so many threads, round by round."""

    threads: int
    forward_backward: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)  # the steps alone
    saving: list[float] = field(default_factory=list)  # the same steps with a save
    call: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)  # the call and the wait
    cpu: list[float] = field(default_factory=list)  # that the steps with a save took more, of all cores
    background: list[float] = field(default_factory=list)  # from the call to the commit
    synchronous: list[float] = field(default_factory=list)


def beside(folder: Path, gigabytes: float, rounds: int) -> tuple[list[Beside], int]:
    """One measurement for each number of threads, and the bytes of the state."""
    layers = max(1, round((gigabytes * 1e9 / 12 - VOCABULARY * WIDTH) / (12 * WIDTH * WIDTH)))
    torch.manual_seed(0)
    net = Trained(layers)
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    words = torch.randint(VOCABULARY, (1, TOKENS))
    _step(net, optimiser, words, [])
    saver = BackgroundSaver(folder / "beside", keep=1)
    saver.follow(optimiser)
    saver.prepare(_state(net, optimiser))
    found: list[Beside] = []
    before = torch.get_num_threads()
    for threads in THREADS:
        torch.set_num_threads(threads)
        one = Beside(threads)
        _rounds(one, rounds, folder, net, optimiser, words, saver)
        found.append(one)
    torch.set_num_threads(before)
    size = sum(parameter.nbytes for parameter in net.parameters())
    return found, 3 * size


def held_share(one: Beside) -> tuple[float, float, float]:
    """Held seconds over those of a synchronous save: the median over rounds, the smallest, the largest."""
    return _shares(one.held, one.synchronous)


def table(found: Sequence[Beside], size: int) -> str:
    """The figures as Markdown; shares are medians over rounds, with the smallest and the largest."""
    lines = [
        f"A save beside training: {size / 1e9:.2f} GB, a step of {TOKENS} words; held and added are of one save.",
        "",
        "| threads that train | " + " | ".join(str(one.threads) for one in found) + " |",
        "|---|" + "---|" * len(found),
    ]

    def row(name: str, value: Callable[[Beside], str]) -> None:
        lines.append(f"| {name} | " + " | ".join(value(one) for one in found) + " |")

    row("a step, s", lambda one: f"{_middle(one.plain) / STEPS:.2f}")
    row("its forward and backward, s", lambda one: f"{_middle(one.forward_backward):.2f}")
    row("synchronous save, s", lambda one: f"{_middle(one.synchronous):.2f}")
    row("background save, to its commit, s", lambda one: f"{_middle(one.background):.2f}")
    row("held by the call, s", lambda one: f"{_middle(one.call):.3f}")
    row("held before the update, s", lambda one: f"{_middle(one.held) - _middle(one.call):.3f}")
    row(f"added to {STEPS} steps, s", lambda one: f"{_middle(_added(one)):.2f}")
    row("added, share of a synchronous save", lambda one: "{:.2f} ({:.2f} to {:.2f})".format(*_added_share(one)))
    row("more CPU seconds", lambda one: f"{_middle(one.cpu):.2f}")
    return "\n".join(lines) + "\n"


def _rounds(
    one: Beside, rounds: int, folder: Path, net: nn.Module, optimiser: Any, words: torch.Tensor, saver: BackgroundSaver
) -> None:
    cpu: dict[str, float] = {}

    def plain() -> None:
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            _step(net, optimiser, words, one.forward_backward)
        one.plain.append(time.perf_counter() - began)
        cpu["plain"] = time.process_time() - cpu_began

    def saving() -> None:
        began, cpu_began = time.perf_counter(), time.process_time()
        pending = saver.save(number, _state(net, optimiser), replace=True)
        one.call.append(pending.stall_s)
        for _ in range(STEPS):
            _step(net, optimiser, words, [])
        one.saving.append(time.perf_counter() - began)
        one.background.append(pending.wait().seconds)
        one.held.append(pending.stall_s)
        cpu["saving"] = time.process_time() - cpu_began

    def synchronous() -> None:
        state = _state(net, optimiser)
        began = time.perf_counter()
        execute.save(folder / "loop", 1, state, replace=True)
        one.synchronous.append(time.perf_counter() - began)

    for number in range(rounds):
        print(f"{one.threads} threads: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        parts = [plain, saving, synchronous]
        for part in parts[number % 3 :] + parts[: number % 3]:
            time.sleep(1.0)
            part()
        one.cpu.append(cpu["saving"] - cpu["plain"])
        shutil.rmtree(folder / "loop")


def _step(net: nn.Module, optimiser: Any, words: torch.Tensor, took: list[float]) -> None:
    began = time.perf_counter()
    net(words).backward()
    took.append(time.perf_counter() - began)
    optimiser.step()
    optimiser.zero_grad()


def _state(net: nn.Module, optimiser: Any) -> dict[str, Any]:
    return execute.training_state(net, optimiser)


def _added(one: Beside) -> list[float]:
    return [saving - plain for saving, plain in zip(one.saving, one.plain, strict=True)]


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def _added_share(one: Beside) -> tuple[float, float, float]:
    return _shares(_added(one), one.synchronous)


def _shares(values: Sequence[float], of: Sequence[float]) -> tuple[float, float, float]:
    shares = [value / whole for value, whole in zip(values, of, strict=True)]
    return _middle(shares), min(shares), max(shares)
