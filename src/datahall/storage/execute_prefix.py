"""Keys and values of prompts kept in blocks: a `PrefixIndex` decides, this moves the bytes and holds them.

In memory as tensors of their own; in a slower tier as files of a `Place`, each with its digest, written and read by the
store's own code.  The cache starts empty and serves one process; what it wrote to the tier, `close` removes.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch

from datahall.base.errors import UsageError
from datahall.storage.faults import StoreFault
from datahall.storage.manifest import digest
from datahall.storage.place import Place
from datahall.storage.prefix import Found, PrefixIndex


class PrefixCache:
    """Blocks of `block_tokens` tokens.  A row is (..., capacity, head_dim): all that is held of one sequence."""

    def __init__(self, index: PrefixIndex, block_tokens: int, place: Place | None = None) -> None:
        if index.far is not None and place is None:
            raise UsageError("the plan has a slower tier, and nobody said where.", hint="Name a folder or a URL.")
        self.index, self.block_tokens, self.place = index, block_tokens, place
        self.near_hits = self.far_hits = self.lost = 0  # blocks that were really filled in, or could not be read
        self.read_bytes = self.written_bytes = 0  # of the slower tier
        self._folder = f"prefix-{secrets.token_hex(6)}"
        self._memory: dict[str, torch.Tensor] = {}
        self._digests: dict[str, str] = {}

    @property
    def held_bytes(self) -> int:
        """Bytes of the tensors in memory, counted tensor by tensor."""
        return sum(block.untyped_storage().nbytes() for block in self._memory.values())

    def fill(self, names: Sequence[str], found: Found, row: torch.Tensor) -> int:
        """Put the leading blocks into `row`; how many tokens that were: fewer than found where a file is damaged."""
        for number, (name, in_memory) in enumerate(zip(names, found.in_memory, strict=False)):
            target = self._part(row, number)
            block = self._memory[name] if in_memory else self._read(name, target)
            if block is None:
                self.lost += 1
                self.index.lost(name)
                return number * self.block_tokens
            target.copy_(block)
            self.near_hits += in_memory
            self.far_hits += not in_memory
        return found.blocks * self.block_tokens

    def settle(self, names: Sequence[str], row: torch.Tensor) -> None:
        """Keep the blocks of a prompt that `row` holds whole, as the index decides."""
        moves = self.index.settle(names)
        numbers = {name: number for number, name in enumerate(names)}

        def block(name: str) -> torch.Tensor:
            held = self._memory.get(name)
            return held if held is not None else self._part(row, numbers[name])

        for name in moves.write:
            self._write(name, block(name))
        for name in moves.drop:
            del self._memory[name]
        for name in moves.keep:
            self._memory[name] = self._part(row, numbers[name]).clone(memory_format=torch.contiguous_format)
        for name in moves.remove:
            self._remove(name)

    def close(self) -> None:
        """Let everything go, and remove what lies in the slower tier."""
        self._memory.clear()
        for name in list(self._digests):
            self._remove(name)
        if self.place is not None:
            self.place.remove_folder(self._folder)

    def _part(self, row: torch.Tensor, number: int) -> torch.Tensor:
        return row[..., number * self.block_tokens : (number + 1) * self.block_tokens, :]

    def _write(self, name: str, block: torch.Tensor) -> None:
        if self.place is None:
            return
        try:
            self._digests[name] = write_file(self.place, self._folder, name, block)
        except StoreFault:  # a full disk, say: a cache that cannot keep is only slower
            self.lost += 1
            self.index.lost(name)
        else:
            self.written_bytes += self.index.block_bytes

    def _read(self, name: str, like: torch.Tensor) -> torch.Tensor | None:
        """The block of the slower tier, or None where it is not what was written."""
        if self.place is None:
            return None
        block = read_file(self.place, self._folder, name, like, self._digests.get(name, ""))
        if block is None:
            self._remove(name)
        else:
            self.read_bytes += self.index.block_bytes
        return block

    def _remove(self, name: str) -> None:
        if self.place is not None and self._digests.pop(name, None) is not None:
            self.place.remove(self._folder, name)


def write_file(place: Place, folder: str, name: str, block: torch.Tensor) -> str:
    """A block as a new file of `place`, or nothing; its digest.  StoreFault where it cannot be written."""
    data = block.contiguous().view(torch.uint8).numpy().tobytes()
    sink = place.create(folder, name)
    try:
        sink.write(data)
    except BaseException:
        sink.abandon()
        raise
    sink.close()  # gives the file up by itself where it fails
    return digest(data)


def read_file(place: Place, folder: str, name: str, like: torch.Tensor, expected: str) -> torch.Tensor | None:
    """The block in a file, shaped like `like`; None where it is missing or not what was written."""
    data = bytearray(like.numel() * like.element_size())
    try:
        got = place.read_into(folder, name, 0, memoryview(data))
    except StoreFault:
        return None
    if got != len(data) or digest(data) != expected:
        return None
    return torch.frombuffer(data, dtype=like.dtype).view(like.shape)
