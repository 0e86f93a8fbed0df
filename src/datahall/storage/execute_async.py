"""Save while training goes on: the loop stands still for one copy in memory, the rest happens on a thread.

    saver = BackgroundSaver("ckpt", keep=2)
    saver.prepare(state)                        # optional: touch the copy's memory before it is needed
    pending = saver.save(step, state, extras)   # returns after the copy: pending.stall_s
    ...
    saver.finish()                              # the last one is committed, or its error is raised

Until `pending.wait()` returns the step is not committed; a process killed before leaves the earlier steps as they were.
Costs one copy of this rank's state in memory, and one core while it writes.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from datahall.storage.execute import DEFAULT_SHARDS, Saved, save
from datahall.storage.execute_tensor import is_plain, local, view_bytes
from datahall.storage.place import Place

_COPY_THREADS = 2  # of our own: torch's wait for one another after every tensor, which a busy machine punishes
_COPY_PART = 32 << 20
_Copy = tuple[torch.Tensor, torch.Tensor]


class Pending:
    """A save under way.  `stall_s` is how long the loop stood still for it, waiting for the previous one included."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.stall_s = 0.0
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._thread is not None and not self._thread.is_alive()

    def wait(self) -> Saved:
        """Return when the step is committed; raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        if self._saved is None:
            raise RuntimeError("the save was never begun")
        return self._saved

    def begin(self, path: str | Path | Place, step: int, state: dict[str, Any], options: dict[str, Any]) -> None:
        """Start the thread."""

        def run() -> None:
            try:
                self._saved = save(path, step, state, **options)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name=f"save-{step}")
        self._thread.start()


class BackgroundSaver:
    """Saves one step at a time in the background; with a process group, all ranks call together."""

    def __init__(
        self,
        path: str | Path | Place,
        *,
        codec: str = "none",
        allow_loss: bool = False,
        shards: int = DEFAULT_SHARDS,
        keep: int = 0,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = path
        self._options: dict[str, Any] = {
            "codec": codec,
            "allow_loss": allow_loss,
            "shards": shards,
            "keep": keep,
            "run": run,
        }
        self._buffers: dict[str, torch.Tensor] = {}
        self._group: dist.ProcessGroup | None = None
        self._pending: Pending | None = None

    def prepare(self, state: Mapping[str, Any]) -> None:
        """Allocate the copy now, so that the first save stalls no longer than the others."""
        _stage(state, self._buffers)

    def save(self, step: int, state: Mapping[str, Any], extras: Any = None, *, replace: bool = False) -> Pending:
        """Copy `state`, start writing it, return.  An error of the previous save is raised here."""
        began = time.perf_counter()
        self.finish()
        if self._group is None and dist.is_available() and dist.is_initialized():
            group: Any = dist.new_group(backend="gloo")  # the thread's own: it must not mix with the loop's messages
            self._group = group
        staged = _stage(state, self._buffers)
        pending = Pending(step)
        options = {**self._options, "extras": copy.deepcopy(extras), "replace": replace, "group": self._group}
        pending.begin(self._path, step, staged, options)
        self._pending = pending
        pending.stall_s = time.perf_counter() - began
        return pending

    def finish(self) -> Saved | None:
        """Wait for the save under way, if there is one; raises its error."""
        pending, self._pending = self._pending, None
        return pending.wait() if pending is not None else None


def _stage(state: Mapping[str, Any], buffers: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A copy of `state` in `buffers`, which are kept from save to save: fresh memory costs more than the copy."""
    copies: list[_Copy] = []
    staged = _tree(state, "", buffers, copies)
    with ThreadPoolExecutor(_COPY_THREADS, thread_name_prefix="stage") as pool:
        for done in [pool.submit(_copy, target, source) for target, source in copies]:
            done.result()
    return staged


def _tree(
    value: Any, name: str, buffers: dict[str, torch.Tensor], copies: list[tuple[torch.Tensor, torch.Tensor]]
) -> Any:
    if isinstance(value, Mapping):
        return {key: _tree(inner, f"{name}.{key}", buffers, copies) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_tree(inner, f"{name}.{n}", buffers, copies) for n, inner in enumerate(value))
    if not isinstance(value, torch.Tensor):
        return copy.deepcopy(value)
    held = local(value.detach())
    buffer = buffers.get(name)
    if buffer is None or buffer.shape != held.shape or buffer.dtype != held.dtype:
        buffer = buffers[name] = _fresh(held)
    if held.is_contiguous() and held.device.type == "cpu" and held.nbytes > _COPY_PART:
        flat, into = held.view(-1), buffer.view(-1)
        count = _COPY_PART // held.element_size()
        copies += list(zip(into.split(count), flat.split(count), strict=True))
    else:
        copies.append((buffer, held))
    if isinstance(value, DTensor):
        return DTensor.from_local(
            buffer, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
        )
    return buffer


def _fresh(like: torch.Tensor) -> torch.Tensor:
    """Memory for a copy: by NumPy, which asks for huge pages, so that the copy walks fewer page tables."""
    if not like.numel():
        return torch.empty(like.shape, dtype=like.dtype)
    memory = np.empty(like.numel() * like.element_size(), dtype=np.uint8)
    return torch.from_numpy(memory).view(like.dtype).view(like.shape)


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    if is_plain(source) and source.numel():
        np.copyto(np.asarray(view_bytes(target)), np.asarray(view_bytes(source)))  # faster than torch on one thread
    else:
        target.copy_(source)
