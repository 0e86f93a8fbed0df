"""Which entry leaves a full cache: policies without clock, chance or files, the same in simulator and real cache.

A policy is told of each access and answers: whether it was a hit, whether to keep the entry, what must leave.  It keeps
the index of what is resident; whoever owns the bytes carries the answer out.  Sizes are bytes; an entry larger than the
whole cache is never kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from datahall.base.errors import UsageError


@dataclass(frozen=True, slots=True)
class Access:
    """The answer to one access: `evict` leaves first, then the entry is kept if `admit`."""

    hit: bool
    admit: bool
    evict: tuple[str, ...] = ()


class Eviction(ABC):
    """What all policies share: the limit, what is resident and how large it is, and counts of hits and misses."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.resident: dict[str, int] = {}
        self.resident_bytes = 0
        self.hits = 0
        self.misses = 0

    def access(self, key: str, size: int) -> Access:
        """Tell of an access to `key` of `size` bytes."""
        if key in self.resident:
            self.hits += 1
            self._touched(key)
            return Access(hit=True, admit=False)
        self.misses += 1
        if size > self.limit_bytes:
            return Access(hit=False, admit=False)
        left: list[str] = []
        while self.resident_bytes + size > self.limit_bytes:
            victim = self._victim()
            self.resident_bytes -= self.resident.pop(victim)
            left.append(victim)
        self.resident[key] = size
        self.resident_bytes += size
        self._admitted(key)
        return Access(hit=False, admit=True, evict=tuple(left))

    def forget(self, key: str) -> None:
        """The bytes of `key` are gone (damaged, say); not an access."""
        if key in self.resident:
            self.resident_bytes -= self.resident.pop(key)
            self._forgotten(key)

    @abstractmethod
    def _touched(self, key: str) -> None:
        """A resident entry was used."""

    @abstractmethod
    def _admitted(self, key: str) -> None:
        """An entry became resident."""

    @abstractmethod
    def _victim(self) -> str:
        """Choose, and drop from the policy's own order, the entry that leaves."""

    @abstractmethod
    def _forgotten(self, key: str) -> None:
        """Drop an entry from the policy's own order."""


class _Queue(Eviction):
    """Entries in one line, of which the first leaves."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._order: OrderedDict[str, None] = OrderedDict()

    def _admitted(self, key: str) -> None:
        self._order[key] = None

    def _victim(self) -> str:
        return self._order.popitem(last=False)[0]

    def _forgotten(self, key: str) -> None:
        del self._order[key]


@final
class Fifo(_Queue):
    """The oldest leaves."""

    def _touched(self, key: str) -> None:
        return


@final
class Lru(_Queue):
    """The one that was not used for the longest time leaves."""

    def _touched(self, key: str) -> None:
        self._order.move_to_end(key)


@final
class Lfu(Eviction):
    """The one that was used least since it came leaves; of equals the oldest."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._uses: dict[str, int] = {}
        self._by_uses: dict[int, OrderedDict[str, None]] = {}

    def _touched(self, key: str) -> None:
        uses = self._uses[key]
        self._drop(key)
        self._put(key, uses + 1)

    def _admitted(self, key: str) -> None:
        self._put(key, 1)

    def _victim(self) -> str:
        victim = next(iter(self._by_uses[min(self._by_uses)]))
        self._drop(victim)
        return victim

    def _forgotten(self, key: str) -> None:
        self._drop(key)

    def _put(self, key: str, uses: int) -> None:
        self._uses[key] = uses
        self._by_uses.setdefault(uses, OrderedDict())[key] = None

    def _drop(self, key: str) -> None:
        uses = self._uses.pop(key)
        del self._by_uses[uses][key]
        if not self._by_uses[uses]:
            del self._by_uses[uses]


@final
class S3Fifo(Eviction):
    """Newcomers wait in a small queue and leave it unless they are used; a ghost list lets the returning in directly.

    After Yang et al., FIFO queues are all you need for cache eviction, SOSP 2023: a tenth for newcomers, uses up to 3.
    """

    _SMALL_SHARE: Final = 0.1

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._small: OrderedDict[str, int] = OrderedDict()
        self._main: OrderedDict[str, int] = OrderedDict()
        self._ghosts: deque[str] = deque()
        self._ghost_set: set[str] = set()
        self._small_bytes = 0

    def _touched(self, key: str) -> None:
        queue = self._small if key in self._small else self._main
        queue[key] = min(3, queue[key] + 1)

    def _admitted(self, key: str) -> None:
        if key in self._ghost_set:
            self._ghost_set.discard(key)
            self._main[key] = 0
        else:
            self._small[key] = 0
            self._small_bytes += self.resident[key]

    def _victim(self) -> str:
        while True:
            newcomers_turn = self._small_bytes > self._SMALL_SHARE * self.limit_bytes or not self._main
            if newcomers_turn and self._small:
                key, uses = self._small.popitem(last=False)
                self._small_bytes -= self.resident[key]
                if uses == 0:
                    self._remember(key)
                    return key
                self._main[key] = 0
                continue
            key, uses = self._main.popitem(last=False)
            if uses == 0:
                return key
            self._main[key] = uses - 1

    def _forgotten(self, key: str) -> None:
        self._main.pop(key, None)
        if self._small.pop(key, None) is not None:
            self._small_bytes = sum(self.resident[entry] for entry in self._small)

    def _remember(self, key: str) -> None:
        self._ghosts.append(key)
        self._ghost_set.add(key)
        while len(self._ghosts) > max(16, len(self.resident)):
            self._ghost_set.discard(self._ghosts.popleft())


POLICIES: Final[dict[str, type[Eviction]]] = {"lru": Lru, "lfu": Lfu, "fifo": Fifo, "s3-fifo": S3Fifo}


def eviction(name: str, limit_bytes: int) -> Eviction:
    """The policy called `name` for a cache of `limit_bytes`."""
    if name not in POLICIES:
        raise UsageError(f"there is no eviction policy {name!r}.", hint=f"Policies: {', '.join(POLICIES)}.")
    return POLICIES[name](limit_bytes)


@final
class Spill:
    """What stays in memory and what waits in files, in the order of coming: nothing that stays ever leaves.

    The first `limit_bytes` stay; so does what is smaller than `least_bytes`, which no file is worth.
    """

    def __init__(self, limit_bytes: int, least_bytes: int = 1 << 16) -> None:
        self.limit_bytes, self.least_bytes = limit_bytes, least_bytes
        self.kept_bytes = self.written_bytes = 0

    def keeps(self, size: int) -> bool:
        """Tell of an entry of `size` bytes: whether it stays."""
        stays = size < self.least_bytes or self.kept_bytes + size <= self.limit_bytes
        if stays:
            self.kept_bytes += size
        else:
            self.written_bytes += size
        return stays


def replay(policy: Eviction, accesses: Iterable[tuple[str, int]]) -> Eviction:
    """Tell `policy` of all accesses; its counts are the forecast for a cache that sees the same."""
    for key, size in accesses:
        policy.access(key, size)
    return policy
