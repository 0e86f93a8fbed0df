"""Independent observers of one worker: FLOPs by torch's counter, memory from /proc.

They see what really happened and share no formula with the forecast.  They change neither tensors nor order.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations, a multiply-add counted as two: matrix products, and the attention core apart."""

    matmul: int
    attention: int


class FlopWatch:
    """FLOPs between `start` and `stop`, as torch's counter sees them (causal attention counted in full)."""

    def __init__(self) -> None:
        self.counter = FlopCounterMode(display=False, custom_mapping=_cpu_attention())
        self.counter.mod_tracker = _OneWhole()  # pyright: ignore[reportAttributeAccessIssue]
        self.parts = _OwnParts()

    def start(self) -> None:
        """Begin to count in this thread."""
        self.counter.__enter__()
        self.parts.__enter__()

    def stop(self) -> Flops:
        """End it; what was counted."""
        self.parts.__exit__(None, None, None)
        self.counter.__exit__(None, None, None)
        by_operation = {str(key): int(value) for key, value in self.counter.get_flop_counts().get("Global", {}).items()}
        attention = sum(value for name, value in by_operation.items() if "attention" in name)
        return Flops(sum(by_operation.values()) - attention, attention)


def count_flops(work: Callable[[], Any]) -> Flops:
    """FLOPs of `work`, forward and backward."""
    watch = FlopWatch()
    watch.start()
    try:
        work()
    finally:
        flops = watch.stop()
    return flops


class _OneWhole:
    """In the place of the counter's tracker of modules, which stops a backward pass that is taken in two halves."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *raised: object) -> None: ...


class _OwnParts(TorchDispatchMode):
    """Lets a cut tensor take itself apart first, so that this worker's part of a product is counted, not the whole."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented
        return function(*arguments, **(named or {}))


class MemoryWatch:
    """Peak memory of this process above what it was when the watch was made.

    On a CPU resident memory by the kernel's high-water mark, reset where /proc allows it (`exact` says whether it was);
    on a GPU what torch's allocator gave out (never run on one yet).
    """

    def __init__(self, device: torch.device | None = None) -> None:
        gc.collect()
        self.gpu = device if device is not None and device.type == "cuda" else None
        if self.gpu is not None:
            torch.cuda.reset_peak_memory_stats(self.gpu)
        self.exact = self.gpu is not None or _reset_high_water()
        self.idle_bytes = torch.cuda.memory_allocated(self.gpu) if self.gpu else resident_bytes()

    def peak_bytes(self) -> int:
        """Bytes above idle at the highest point since."""
        peak = torch.cuda.max_memory_allocated(self.gpu) if self.gpu else _status_bytes("VmHWM")
        return max(0, peak - self.idle_bytes)

    def host_bytes(self) -> int:
        """Resident memory of this process at its highest point, idle or not: on a CPU that of `peak_bytes` and idle."""
        return _status_bytes("VmHWM")


def resident_bytes() -> int:
    """Resident memory of this process; 0 where there is no /proc."""
    return _status_bytes("VmRSS")


def _cpu_attention() -> dict[Any, Any]:
    """Counts for the attention kernel that torch uses on CPUs, which its counter does not know."""

    def forward(query, key, value, *rest, out_shape=None, **named):
        return sdpa_flop_count(query, key, value)

    def backward(grad, query, key, value, *rest, out_shape=None, **named):
        return sdpa_backward_flop_count(grad, query, key, value)

    operations = torch.ops.aten
    return {
        operations._scaled_dot_product_flash_attention_for_cpu: forward,
        operations._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def _reset_high_water() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0
