"""Which blocks of a prompt's keys and values are there already, and what is kept afterwards: decided, not carried out.

A prompt is cut into blocks of tokens; each is named by a hash of its tokens and of the name before it, so that equal
names mean equal prompts up to there.  Only a leading run of blocks is a hit.  What leaves memory goes to a slower tier,
if there is one, and comes back from it.  The policies are `eviction`'s; the same `PrefixIndex` decides in the forecast
and in the real cache.  Answers are not kept: nobody knows them beforehand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from datahall.storage.eviction import Eviction, eviction
from datahall.storage.plan import PrefixPlan

_NAME_BYTES = 16


def block_names(tokens: Sequence[int], block_tokens: int) -> list[str]:
    """Names of the prompt's whole blocks.  The last token belongs to none: it has to be read for its answer."""
    words = np.asarray(tokens, dtype="<i8")
    names: list[str] = []
    before = b""
    for start in range(0, (len(words) - 1) // block_tokens * block_tokens, block_tokens):
        data = before + words[start : start + block_tokens].tobytes()
        before = hashlib.blake2b(data, digest_size=_NAME_BYTES).digest()
        names.append(before.hex())
    return names


@dataclass(frozen=True, slots=True)
class Found:
    """The leading blocks of a prompt that are there: of each whether it is in memory (else in the slower tier)."""

    in_memory: tuple[bool, ...] = ()

    @property
    def blocks(self) -> int:
        """Blocks that need not be computed."""
        return len(self.in_memory)

    @property
    def near(self) -> int:
        """Those of them in memory."""
        return sum(self.in_memory)

    @property
    def far(self) -> int:
        """Those of them in the slower tier."""
        return self.blocks - self.near


@dataclass(frozen=True, slots=True)
class Moves:
    """What a prompt changes: names kept in memory or dropped, written to the slower tier or removed from it."""

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class PrefixIndex:
    """What is in memory and in the slower tier, by two policies.  All blocks have `block_bytes`."""

    def __init__(self, near: Eviction, block_bytes: int, far: Eviction | None = None) -> None:
        self.near, self.far, self.block_bytes = near, far, block_bytes

    def find(self, names: Sequence[str]) -> Found:
        """The leading blocks that are there; changes nothing."""
        there: list[bool] = []
        for name in names:
            if name in self.near.resident:
                there.append(True)
            elif self.far is not None and name in self.far.resident:
                there.append(False)
            else:
                break
        return Found(tuple(there))

    def settle(self, names: Sequence[str]) -> Moves:
        """Tell of a prompt whose blocks are all at hand now; what moves.

        From the last to the first, so that of blocks used together the last leaves first: without it, those behind it
        would lie there for nothing.
        """
        near, far = dict[str, bool](), dict[str, bool]()  # what changes: whether it was there before
        for name in reversed(names):
            answer = self.near.access(name, self.block_bytes)
            if answer.admit:
                near.setdefault(name, False)
            for victim in answer.evict:
                near.setdefault(victim, True)
                self._demote(victim, far)
            if not answer.hit and self.far is not None and name in self.far.resident:
                self.far.access(name, self.block_bytes)  # used, though it is in memory from now on
        kept, there = self.near.resident, self.far.resident if self.far is not None else {}
        return Moves(
            keep=tuple(name for name, before in near.items() if not before and name in kept),
            drop=tuple(name for name, before in near.items() if before and name not in kept),
            write=tuple(name for name, before in far.items() if not before and name in there),
            remove=tuple(name for name, before in far.items() if before and name not in there),
        )

    def lost(self, name: str) -> None:
        """The bytes of a block in the slower tier cannot be read any more."""
        if self.far is not None:
            self.far.forget(name)

    def _demote(self, name: str, changed: dict[str, bool]) -> None:
        if self.far is None:
            return
        answer = self.far.access(name, self.block_bytes)
        if answer.admit:
            changed.setdefault(name, False)
        for victim in answer.evict:
            changed.setdefault(victim, True)


def prefix_index(plan: PrefixPlan, token_bytes: int) -> PrefixIndex:
    """An empty index as `plan` has it, for a model that keeps `token_bytes` of each token."""
    far = eviction(plan.policy, plan.tier_bytes) if plan.tier_bytes else None
    return PrefixIndex(eviction(plan.policy, plan.memory_bytes), plan.block_tokens * token_bytes, far)


@dataclass(frozen=True, slots=True)
class Visit:
    """What one prompt found, and what it moved."""

    tokens: int
    found: Found
    moves: Moves


def replay_prompts(
    index: PrefixIndex, batches: Iterable[Sequence[Sequence[int]]], block_tokens: int
) -> list[list[Visit]]:
    """Tell `index` of all prompts as the real generator does: a batch looks before any of it is kept."""
    visits: list[list[Visit]] = []
    for batch in batches:
        named = [block_names(prompt, block_tokens) for prompt in batch]
        found = [index.find(names) for names in named]
        settled = [index.settle(names) for names in named]
        visits.append([Visit(len(p), f, m) for p, f, m in zip(batch, found, settled, strict=True)])
    return visits
