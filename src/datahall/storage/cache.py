"""A bounded cache on a fast folder before a slow source: the policy decides, this carries it out and counts.

For shards of a remote store (`CachedPlace`), preprocessed data and offloaded activations (`TierCache` with any key).
What lies in the folder is checked by its digest when it is read; a damaged entry is fetched again.  The cache starts
empty, serves one process (threads included), and is not durable.  Whether it pays is `estimate.cache_gain_s` of the
forecast hits: ask before.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datahall.base.formula import formula
from datahall.storage.eviction import Eviction
from datahall.storage.manifest import digest
from datahall.storage.place import Place
from datahall.storage.sink import Sink


class TierCache:
    """Entries as files of `folder`, at most the policy's limit in all."""

    def __init__(self, folder: Path, policy: Eviction) -> None:
        self.folder = folder
        self.policy = policy
        self._digests: dict[str, str] = {}
        self._lock = threading.Lock()

    def get(self, key: str, size: int, fetch: Callable[[], bytes]) -> bytes:
        """The bytes of `key`, from the folder or else by `fetch`; `size` is what `fetch` will give."""
        with self._lock:
            answer = self.policy.access(key, size)
            for victim in answer.evict:
                self._digests.pop(victim, None)
                self._file(victim).unlink(missing_ok=True)
            known = self._digests.get(key)
        if answer.hit and known is not None:
            held = self._read(key, known)
            if held is not None:
                return held
        data = fetch()
        if answer.admit or answer.hit:
            try:
                self._keep(key, data)
            except OSError:  # a full disk, say: a cache that cannot keep is only slower
                with self._lock:
                    self.policy.forget(key)
        return data

    def _read(self, key: str, expected: str) -> bytes | None:
        try:
            data = self._file(key).read_bytes()
        except FileNotFoundError:
            return None  # evicted by another thread meanwhile
        return data if digest(data) == expected else None

    def _keep(self, key: str, data: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._file(key)
        temporary = path.with_suffix(f".{threading.get_ident()}")
        try:
            temporary.write_bytes(data)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        with self._lock:
            if key in self.policy.resident:
                os.replace(temporary, path)
                self._digests[key] = digest(data)
            else:
                temporary.unlink()

    def _file(self, key: str) -> Path:
        return self.folder / hashlib.sha256(key.encode()).hexdigest()


class CachedPlace:
    """A place whose shard reads go through a cache; manifests and writes do not."""

    def __init__(self, inner: Place, cache: TierCache) -> None:
        self.inner = inner
        self.cache = cache
        self.name = inner.name

    def folders(self) -> list[str]:
        """As the inner place."""
        return self.inner.folders()

    def files(self, folder: str) -> dict[str, tuple[int, float]]:
        """As the inner place."""
        return self.inner.files(folder)

    def create(self, folder: str, name: str) -> Sink:
        """As the inner place."""
        return self.inner.create(folder, name)

    def read(self, folder: str, name: str) -> bytes:
        """As the inner place."""
        return self.inner.read(folder, name)

    def read_into(self, folder: str, name: str, offset: int, target: memoryview) -> int:
        """Fill `target` from the cache, or from the inner place."""

        def fetch() -> bytes:
            whole = bytearray(len(target))
            return bytes(whole[: self.inner.read_into(folder, name, offset, memoryview(whole))])

        data = self.cache.get(f"{self.name}/{folder}/{name}@{offset}+{len(target)}", len(target), fetch)
        target[: len(data)] = data
        return len(data)

    def commit(self, folder: str, name: str, data: bytes, replace: bool) -> None:
        """As the inner place."""
        self.inner.commit(folder, name, data, replace)

    def remove(self, folder: str, name: str) -> None:
        """As the inner place."""
        self.inner.remove(folder, name)

    def remove_folder(self, folder: str) -> None:
        """As the inner place."""
        self.inner.remove_folder(folder)


_HALVINGS: Final = 200


@formula(
    equation="sum_i s_i (1 - exp(-p_i T)) = C, h = sum_i p_i (1 - exp(-p_i T))",
    source="Che, Tung, Wang 2002, Hierarchical Web caching systems, IEEE JSAC 20(7)",
    holds="LRU; independent requests with fixed probabilities p; a limit C below the sum of sizes",
)
def che_hit_share(probabilities: ArrayLike, sizes: ArrayLike, limit_bytes: float) -> float:
    """The share of accesses that an LRU cache of `limit_bytes` answers in the long run."""
    weight: NDArray[np.float64] = np.asarray(probabilities, dtype=float)
    weight = weight / weight.sum()
    size: NDArray[np.float64] = np.asarray(sizes, dtype=float)
    if size.sum() <= limit_bytes:
        return 1.0
    low, high = 0.0, 1.0
    while (size * -np.expm1(-weight * high)).sum() < limit_bytes:
        high *= 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if (size * -np.expm1(-weight * middle)).sum() < limit_bytes:
            low = middle
        else:
            high = middle
    return float((weight * -np.expm1(-weight * low)).sum())
