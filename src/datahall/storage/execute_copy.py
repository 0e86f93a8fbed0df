"""A copy of tensors that several threads make together, and that knows whether it is whole.

A tensor that changed before its copy had ended makes `check` fail.  It is seen by PyTorch's own count of changes, which
fused optimisers, NumPy and `.data` do not keep, and by a sample of the bytes as they were in the beginning, compared
with the copy: a change of all of a tensor is seen, uncounted changes of a few elements need not be.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from datahall.storage.execute_tensor import is_plain, view_bytes
from datahall.storage.faults import Torn

_PART_BYTES = 32 << 20
_SAMPLE_EVERY = (64 << 10) + 1  # odd, so that every byte of an element has its turn
_SAMPLE_LEAST = 16


class Copies:
    """Copies to make.  `add` all, then any number of threads `help`; each part is copied once."""

    def __init__(self) -> None:
        self._parts: deque[Callable[[], bool]] = deque()
        self._watched: list[tuple[torch.Tensor, int]] = []
        self._lock = threading.Lock()
        self._left = 0
        self._whole = True
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._ended.set()
        self._beside = _behind_the_loop()

    def add(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy `source` as it is now; until then it must not change."""
        self.watch([source])
        if not source.numel():
            return
        if is_plain(source):
            into, what = np.asarray(view_bytes(target)), np.asarray(view_bytes(source))
            parts = [slice(at, at + _PART_BYTES) for at in range(0, what.size, _PART_BYTES)]
            self._parts += [_copy_bytes(into[part], what[part]) for part in parts]
        else:
            self._parts.append(lambda: self._copy_tensor(target, source))
        self._left = len(self._parts)
        self._ended.clear()

    def watch(self, tensors: Iterable[torch.Tensor]) -> None:
        """Changes of these, too, make the copy worthless."""
        self._watched += [(tensor, _changes(tensor)) for tensor in tensors]

    @property
    def ended(self) -> bool:
        """Whether all is copied."""
        return self._ended.is_set()

    def help(self) -> None:
        """Copy what nobody has begun to copy; returns when all is copied, by whomever."""
        while True:
            try:
                part = self._parts.popleft()
            except IndexError:
                break
            self._copy(part)
        self._ended.wait()

    def check(self) -> None:
        """Raises Torn where the copy is not the state as it was in the beginning, or what went wrong while copying."""
        if self._error is not None:
            raise self._error
        if not self._whole:
            raise Torn(
                "the state changed while it was copied; nothing of it was kept.",
                hint="Call before_update() of the saver before anything changes what a followed optimiser holds.",
            )

    def _copy(self, part: Callable[[], bool]) -> None:
        same = False
        try:
            same = part()
        except BaseException as error:
            self._error = error
        with self._lock:
            self._left -= 1
            self._whole = self._whole and same
            if self._left:
                return
            self._whole = self._whole and all(_changes(tensor) == before for tensor, before in self._watched)
            self._watched.clear()
        self._ended.set()

    def _copy_tensor(self, target: torch.Tensor, source: torch.Tensor) -> bool:
        with self._beside():
            target.copy_(source)
        return True


def memory_for(like: torch.Tensor) -> torch.Tensor:
    """Memory for a copy: by NumPy, which asks for huge pages, so that the copy walks fewer page tables."""
    if not like.numel():
        return torch.empty(like.shape, dtype=like.dtype)
    memory = np.empty(like.numel() * like.element_size(), dtype=np.uint8)
    return torch.from_numpy(memory).view(like.dtype).view(like.shape)


def _copy_bytes(into: np.ndarray, what: np.ndarray) -> Callable[[], bool]:
    """Copies, and says whether the sample of what was there when this was called is what was copied."""
    every = max(1, min(_SAMPLE_EVERY, what.size // _SAMPLE_LEAST))
    before = what[::every].copy()

    def run() -> bool:
        np.copyto(into, what)  # faster than torch on one thread
        return np.array_equal(into[::every], before)

    return run


def _changes(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _behind_the_loop() -> Callable[[], AbstractContextManager[object]]:
    """On a GPU copies run on a stream of their own, behind what the loop has asked for until now."""
    if not torch.cuda.is_initialized():
        return nullcontext
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    return lambda: torch.cuda.stream(stream)
