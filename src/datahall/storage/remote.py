"""A prefix of an object store, or any other file system that fsspec reaches: puts in parts, retries, ranged gets.

Credentials come from the environment of the file system (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on), never from
arguments here.  A put is atomic by itself; whether a second writer is refused rests on a look before the put.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from datahall.storage.faults import AlreadyCommitted, NoCheckpoint, StoreFault
from datahall.storage.sink import Sink

R = TypeVar("R")
RETRIES: Final = 4


class RemotePlace:
    """A prefix of an object store or another fsspec file system."""

    def __init__(self, url: str) -> None:
        import fsspec  # an extra: only who has remote stores needs it

        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(url)  # pyright: ignore[reportUnknownMemberType]
        self.name = url

    def folders(self) -> list[str]:
        """Names of the folders, sorted."""
        self._fs.invalidate_cache()
        try:
            entries = self._retry(lambda: self._fs.ls(self._root, detail=True))
        except FileNotFoundError:
            return []
        return sorted(_last(entry["name"]) for entry in entries if entry["type"] == "directory")

    def files(self, folder: str) -> dict[str, tuple[int, float]]:
        """Name to (bytes, time of the last change; 0 where the store does not tell)."""
        self._fs.invalidate_cache()
        try:
            entries = self._retry(lambda: self._fs.ls(f"{self._root}/{folder}", detail=True))
        except FileNotFoundError:
            return {}
        return {_last(e["name"]): (int(e["size"] or 0), _changed(e)) for e in entries if e["type"] == "file"}

    def create(self, folder: str, name: str) -> Sink:
        """A new object, sent in parts."""
        return _RemoteSink(self._fs, f"{self._root}/{folder}", name)

    def read(self, folder: str, name: str) -> bytes:
        """The whole object."""
        try:
            return self._retry(lambda: self._fs.cat_file(f"{self._root}/{folder}/{name}"))
        except FileNotFoundError as error:
            raise NoCheckpoint("the object is missing.", where=f"{self.name}/{folder}/{name}") from error

    def read_into(self, folder: str, name: str, offset: int, target: memoryview) -> int:
        """Fill `target` from `offset` by a ranged get."""
        path = f"{self._root}/{folder}/{name}"
        try:
            data = self._retry(lambda: self._fs.cat_file(path, start=offset, end=offset + len(target)))
        except FileNotFoundError as error:
            raise NoCheckpoint("the object is missing.", where=f"{self.name}/{folder}/{name}") from error
        target[: len(data)] = data
        return len(data)

    def commit(self, folder: str, name: str, data: bytes, replace: bool) -> None:
        """One put, after a look whether somebody was faster."""
        path = f"{self._root}/{folder}/{name}"
        if not replace and name in self.files(folder):
            raise AlreadyCommitted(f"{folder} was committed by another writer.", where=self.name)
        self._retry(lambda: self._fs.pipe_file(path, data))

    def remove(self, folder: str, name: str) -> None:
        """Remove an object; nothing happens when it is gone."""
        try:
            self._retry(lambda: self._fs.rm_file(f"{self._root}/{folder}/{name}"))
        except FileNotFoundError:
            return

    def remove_folder(self, folder: str) -> None:
        """Folders of an object store vanish with their last object; others are removed when empty."""
        try:
            self._fs.rmdir(f"{self._root}/{folder}")
        except (OSError, NotImplementedError, ValueError):
            return

    def _retry(self, action: Callable[[], R]) -> R:
        return retrying(action, self.name)


class _RemoteSink:
    def __init__(self, fs: Any, parent: str, name: str) -> None:
        self._path = f"{parent}/{name}"
        try:
            fs.makedirs(parent, exist_ok=True)
            self._file = fs.open(self._path, "wb")
        except OSError as error:
            raise StoreFault(f"writing cannot begin: {error}.", where=self._path) from error

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._file.write(data)
        except Exception as error:
            raise StoreFault(
                f"writing failed: {error}.", where=self._path, hint="Nothing that was committed is touched."
            ) from error

    def close(self) -> None:
        try:
            self._file.close()
        except Exception as error:
            raise StoreFault(
                f"writing failed: {error}.", where=self._path, hint="Nothing that was committed is touched."
            ) from error

    def abandon(self) -> None:
        try:
            self._file.discard()
        except Exception:
            return


def retrying(action: Callable[[], R], where: str, wait_s: float = 0.2) -> R:
    """What `action` returns; failures of the connection are tried again, waiting twice as long each time."""
    for attempt in range(RETRIES):
        try:
            return action()
        except (FileNotFoundError, StoreFault):
            raise
        except Exception as error:  # the file system's own kinds are many: each is an OSError or a client's error
            if attempt == RETRIES - 1:
                raise StoreFault(
                    f"gave up after {RETRIES} attempts: {type(error).__name__}: {error}.", where=where
                ) from error
            time.sleep(wait_s * 2**attempt)
    raise AssertionError("unreachable")


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _changed(entry: dict[str, Any]) -> float:
    stamp: Any = entry.get("LastModified") or entry.get("mtime") or entry.get("created") or 0.0
    return float(stamp.timestamp()) if hasattr(stamp, "timestamp") else float(stamp)
