"""Save while training goes on: the loop is held for what may change at once, the rest is copied beside its next step.

    saver = BackgroundSaver("ckpt", keep=2)
    saver.follow(optimiser)                     # weights and moments change in its step only, which waits for the copy
    saver.prepare(state)                        # optional: touch the copy's memory before it is needed
    pending = saver.save(step, state, extras)   # returns when what nobody follows is copied (buffers, random states)
    loss.backward()                             # the copy is made meanwhile
    optimiser.step()                            # held until it is whole; pending.stall_s has both holds
    ...
    saver.finish()                              # the last one is committed, or its error is raised

Whatever else changes a followed tensor (an average of weights, a load) calls `before_update` first.  A copy that the
loop has changed under way is never committed: `execute_copy` has how that is seen, and what is not.  Until
`pending.wait()` returns the step is not committed; a process killed before leaves the earlier steps as they were.
Costs one copy of this rank's state in memory, and one core while it copies and writes.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from datahall.storage.execute import DEFAULT_SHARDS, Saved, save
from datahall.storage.execute_copy import Copies, memory_for
from datahall.storage.execute_tensor import check_storable, local
from datahall.storage.place import Place


class Pending:
    """A save under way.

    `stall_s` is how long the loop was held for it, in the call (waiting for the save before included) and before its
    next update.
    """

    def __init__(self, step: int, later: Copies) -> None:
        self.step = step
        self.stall_s = 0.0
        self._later = later
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None
        self._error: BaseException | None = None

    @property
    def copied(self) -> bool:
        """Whether the state may change: nothing more is read of it."""
        return self._later.ended

    def wait_copied(self) -> None:
        """Return when the state may change; the caller helps to copy what nobody has begun."""
        if not self.copied:
            began = time.perf_counter()
            self._later.help()
            self.stall_s += time.perf_counter() - began

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._thread is not None and not self._thread.is_alive()

    def wait(self) -> Saved:
        """Return when the step is committed, with the seconds since the call; raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        if self._saved is None:
            raise RuntimeError("the save was never begun")
        return self._saved

    def begin(self, path: str | Path | Place, state: dict[str, Any], now: Copies, options: dict[str, Any]) -> None:
        """Start the thread: it copies, then writes."""

        def check() -> None:
            now.check()
            self._later.check()

        def run() -> None:
            try:
                now.help()
                self._later.help()
                self._saved = save(path, self.step, state, check=check, **options)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name=f"save-{self.step}")
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
        self._followed: list[torch.optim.Optimizer] = []
        self._group: dist.ProcessGroup | None = None
        self._pending: Pending | None = None

    def follow(self, optimiser: torch.optim.Optimizer) -> None:
        """Copy what `optimiser` holds beside the next step: it changes in its `step` and `load_state_dict` only."""
        optimiser.register_step_pre_hook(lambda *_: self.before_update())
        optimiser.register_load_state_dict_pre_hook(lambda *_: self.before_update())
        self._followed.append(optimiser)

    def prepare(self, state: Mapping[str, Any]) -> None:
        """Allocate the copy now, so that the first save stalls no longer than the others."""
        _, now, later = self._staged(state)
        now.help()
        later.help()

    def save(self, step: int, state: Mapping[str, Any], extras: Any = None, *, replace: bool = False) -> Pending:
        """Copy what may change at once, start copying and writing the rest, return.

        An error of the previous save is raised here.
        """
        began = time.perf_counter()
        self.finish()
        if self._group is None and dist.is_available() and dist.is_initialized():
            group: Any = dist.new_group(backend="gloo")  # the thread's own: it must not mix with the loop's messages
            self._group = group
        staged, now, later = self._staged(state)
        pending = Pending(step, later)
        options = {**self._options, "extras": copy.deepcopy(extras), "replace": replace, "group": self._group}
        pending.begin(self._path, staged, now, {**options, "began": began})
        now.help()
        self._pending = pending
        pending.stall_s = time.perf_counter() - began
        return pending

    def before_update(self) -> None:
        """Return when the state may change: its copy is whole, or no save is under way."""
        if self._pending is not None:
            self._pending.wait_copied()

    @property
    def copying(self) -> bool:
        """Whether `before_update` would hold the loop."""
        return self._pending is not None and not self._pending.copied

    def finish(self) -> Saved | None:
        """Wait for the save under way, if there is one; raises its error."""
        pending, self._pending = self._pending, None
        return pending.wait() if pending is not None else None

    def _staged(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], Copies, Copies]:
        """The copy to be written, in memory kept from save to save, and how it is filled: at once, and later."""
        check_storable(state)
        now, later = Copies(), Copies()
        owned = [tensor for optimiser in self._followed for tensor in _held_by(optimiser)]
        memories = {_memory(tensor) for tensor in owned}

        def stage(value: Any, name: str) -> Any:
            if isinstance(value, Mapping):
                return {key: stage(inner, f"{name}.{key}") for key, inner in value.items()}
            if isinstance(value, list | tuple):
                kind = list if isinstance(value, list) else tuple
                return kind(stage(inner, f"{name}.{n}") for n, inner in enumerate(value))
            if not isinstance(value, torch.Tensor):
                return copy.deepcopy(value)
            held = local(value.detach())
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != held.shape or buffer.dtype != held.dtype:
                buffer = self._buffers[name] = memory_for(held)
            (later if _memory(held) in memories else now).add(buffer, held)
            return _as_cut(value, buffer)

        staged = {key: stage(inner, f".{key}") for key, inner in state.items()}
        later.watch(owned)
        return staged, now, later


def _held_by(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    """This rank's memory of the parameters and of the optimiser's state."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    states = [value for state in optimiser.state.values() for value in state.values()]
    return [local(value.detach()) for value in (*parameters, *states) if isinstance(value, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> tuple[torch.device, int]:
    """Where the tensor's memory lies: the same for all views of it."""
    return tensor.device, tensor.untyped_storage().data_ptr()


def _as_cut(value: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """`buffer` in the place of what this rank holds of `value`."""
    spread: Any = value
    if hasattr(spread, "over"):  # a part of a tensor that says itself which
        return spread.over(buffer)
    if not isinstance(value, DTensor):
        return buffer
    mesh, placements = value.device_mesh, value.placements
    return DTensor.from_local(buffer, mesh, placements, run_check=False, shape=value.shape, stride=value.stride())
