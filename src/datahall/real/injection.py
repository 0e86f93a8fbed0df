"""Disturbances of a real run: slow disk, slow link, a slow worker, slow input, a killed or a hanging worker.

The real world only: plan, forecast and seal never see them, so that a bottleneck has to be found blind.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from datahall.base.errors import UsageError
from datahall.base.workload import Samples, Workload

KINDS = ("slow-disk", "slow-link", "slow-worker", "slow-input", "kill-worker", "hang-worker")


@dataclass(frozen=True, slots=True)
class Injection:
    """One disturbance.

    slow-disk: checkpoints pass a throttle of `bytes_per_s`.  slow-link: each collective takes `latency_s` and its bytes
    over `bytes_per_s` longer.  slow-worker: worker `rank` computes `share` longer.  slow-input: the loader takes
    `latency_s` longer for each micro-batch.  kill-worker, hang-worker: worker `rank` gets SIGKILL or SIGSTOP in `step`.
    """

    kind: str
    bytes_per_s: float = float("inf")
    latency_s: float = 0.0
    share: float = 0.0
    rank: int = 1
    step: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"{self.kind!r} is no disturbance.", hint=f"Choose one of {', '.join(KINDS)}.")

    def to_json(self) -> dict[str, Any]:
        """The disturbance as plain JSON values (infinite rates are left out)."""
        return {name: value for name, value in asdict(self).items() if value != float("inf")}


def disturbed(workload: Workload, injection: Injection | None, rank: int) -> Workload:
    """`workload` with slow input or a slow worker built in, where `injection` says so."""
    if injection is None:
        return workload
    if injection.kind == "slow-input":
        return replace(workload, data=_SlowSamples(workload.data, injection.latency_s))
    if injection.kind == "slow-worker" and injection.rank == rank:
        return replace(workload, loss=_SlowLoss(workload.loss, injection.share))
    return workload


class Throttle:
    """A link or disk that passes `bytes_per_s` with `latency_s` for each message, one message after the other."""

    def __init__(self, bytes_per_s: float, latency_s: float = 0.0) -> None:
        self.bytes_per_s = bytes_per_s
        self.latency_s = latency_s
        self.free_at_s = 0.0

    def send(self, count: int) -> None:
        """Wait as long as a message of `count` bytes, handed over now, would take."""
        self.free_at_s = max(time.monotonic(), self.free_at_s) + self.latency_s + count / self.bytes_per_s
        time.sleep(max(0.0, self.free_at_s - time.monotonic()))


class _SlowSamples:
    def __init__(self, samples: Samples, latency_s: float) -> None:
        self.samples = samples
        self.latency_s = latency_s

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, ids: Sequence[int]) -> Any:
        time.sleep(self.latency_s)
        return self.samples.batch(ids)


class _SlowLoss:
    """The loss, then more arithmetic: `share` of what forward and backward take (three times the forward pass)."""

    def __init__(self, loss: Any, share: float) -> None:
        self.loss = loss
        self.share = share
        self.matrix = torch.ones(64, 64)

    def __call__(self, model: Any, batch: Any) -> Any:
        began_s = time.monotonic()
        loss = self.loss(model, batch)
        ends_s = time.monotonic() + self.share * 3 * (time.monotonic() - began_s)
        while time.monotonic() < ends_s:
            torch.mm(self.matrix, self.matrix)
        return loss
