"""An independent observer of collectives: counts what this process hands to its process groups, at the call.

It stands in front of torch's ProcessGroup and of the functional collectives that DTensor uses, so it sees every library
above them and shares no formula with the forecast.  Bytes are those of the tensor handed in: a shard for an all-gather,
the whole for a reduce-scatter.  It changes neither tensors nor order, and counts the main thread only (a background
checkpoint has its own groups).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist

# Methods of ProcessGroup, the kind they count as, and which argument holds what is handed over.
_METHODS = {
    "allreduce": ("all_reduce", 0),
    "broadcast": ("broadcast", 0),
    "send": ("send", 0),
    "all_gather_single": ("all_gather", 1),
    "all_gather_single_coalesced": ("all_gather", 1),
    "reduce_scatter_single": ("reduce_scatter", 1),
    "reduce_scatter_single_coalesced": ("reduce_scatter", 1),
    "allgather": ("all_gather", 1),
    "reduce_scatter": ("reduce_scatter", 1),
    "all_to_all_single": ("all_to_all", 1),
}
_FUNCTIONAL = {
    "all_reduce": "all_reduce",
    "all_reduce_": "all_reduce",
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_to_all_single": "all_to_all",
    "broadcast": "broadcast",
}


class CollectiveCounter:
    """Calls and bytes so far, all and by kind; and the seconds that the process was blocked by transfers.

    `stages_s` are those of `blocked_s` in which it waited for a send or a receive over `stage_group`, by which the
    stages of a pipeline hand one another activations and gradients.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.bytes = 0
        self.blocked_s = self.stages_s = 0.0
        self.stage_group: dist.ProcessGroup | None = None
        self.between_stages: WeakSet[Any] = WeakSet()
        self.by_kind: dict[str, list[int]] = {}
        self.thread = threading.get_ident()
        self.replaced: list[tuple[Any, str, Any]] = []

    def watch(self) -> None:
        """Put the counter in front of every collective of this process."""
        for method, (kind, argument) in _METHODS.items():
            counting = self._counting(getattr(dist.ProcessGroup, method), kind, argument + 1)
            self._replace(dist.ProcessGroup, method, counting)
        for method in ("send", "recv"):
            self._replace(dist.ProcessGroup, method, self._noted(getattr(dist.ProcessGroup, method)))
        functional = torch.ops._c10d_functional
        for name, kind in _FUNCTIONAL.items():
            operation = getattr(functional, name)
            self._replace(functional, name, _Observed(operation, self._counting(operation, kind, 0)))
        self._replace(functional, "wait_tensor", _Observed(functional.wait_tensor, self._timed(functional.wait_tensor)))
        self._replace(dist.Work, "wait", self._timed(dist.Work.wait))

    def release(self) -> None:
        """Take the counter away again."""
        for owner, name, original in reversed(self.replaced):
            setattr(owner, name, original)
        self.replaced.clear()

    def _replace(self, owner: Any, name: str, observed: Any) -> None:
        self.replaced.append((owner, name, vars(owner)[name]))  # as it is kept: reading it would unbind the method
        setattr(owner, name, observed)

    def _counting(self, collective: Callable[..., Any], kind: str, argument: int) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() == self.thread:
                self._count(kind, arguments[argument])
            return collective(*arguments, **named)

        return counted

    def _count(self, kind: str, handed: Any) -> None:
        tensors = [handed] if isinstance(handed, torch.Tensor) else handed
        seen = self.by_kind.setdefault(kind, [0, 0])
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.calls += 1
        self.bytes += size
        seen[0] += 1
        seen[1] += size

    def _noted(self, handed: Callable[..., Any]) -> Callable[..., Any]:
        def noted(group: dist.ProcessGroup, *arguments: Any, **named: Any) -> Any:
            work = handed(group, *arguments, **named)
            if group is self.stage_group:
                self.between_stages.add(work)
            return work

        return noted

    def _timed(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return wait(*arguments, **named)
            finally:
                if threading.get_ident() == self.thread:
                    self._add(time.perf_counter() - began_s, arguments[0])

        return timed

    def _add(self, seconds: float, waited_for: Any) -> None:
        self.blocked_s += seconds
        if isinstance(waited_for, dist.Work) and waited_for in self.between_stages:
            self.stages_s += seconds


class _Observed:
    """An operation of torch that is called through an observer; asked for anything else, it answers itself."""

    def __init__(self, operation: Any, observer: Callable[..., Any]) -> None:
        self._operation, self._observer = operation, observer

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._observer(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operation, name)
