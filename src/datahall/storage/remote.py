"""A prefix of an object store, or any other file system that fsspec reaches: puts in parts, retries, ranged gets.

Credentials come from the environment of the file system (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on), never from
arguments here.  A put is atomic by itself.  A second writer is refused by the store where its driver has a conditional
put (S3: If-None-Match, seen on Ceph; Google and Azure by their drivers, not seen here); on others by a look just before
the put, which two writers at the same moment may both pass.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from datahall.base.errors import UsageError
from datahall.storage.faults import AlreadyCommitted, NoCheckpoint, StoreFault
from datahall.storage.sink import Sink

R = TypeVar("R")
RETRIES: Final = 4


class RemotePlace:
    """A prefix of an object store or another fsspec file system."""

    def __init__(self, url: str) -> None:
        self._fs: Any
        self._fs, self._root = file_system(url)
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
        """Name to (bytes, time of the last change; infinite where nobody tells, so nothing looks old)."""
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
        """One put, on condition that nobody was faster; a look before it where the store knows no conditions."""
        path = f"{self._root}/{folder}/{name}"
        if not replace and name in self.files(folder):
            raise _overtaken(folder, self.name)
        condition = {} if replace or not self.conditional else {"mode": "create"}

        def put() -> None:
            try:
                self._fs.pipe_file(path, data, **condition)
            except Exception as error:
                if not condition or not _refused(error):
                    raise
                # the answer to an earlier attempt may have been lost: then what is there is ours
                if self._fs.cat_file(path) != data:
                    raise _overtaken(folder, self.name) from error

        self._retry(put)

    @property
    def conditional(self) -> bool:
        """Whether the driver can put on condition that nothing is there."""
        conditional = {"s3", "s3a", "gs", "gcs", "abfs", "az"}
        kinds = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        return bool(conditional & kinds) and "mode" in inspect.signature(self._fs._pipe_file).parameters

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


def file_system(url: str) -> tuple[Any, str]:
    """What fsspec reaches `url` by, and the path there; UsageError where the driver is missing or nobody knows it."""
    try:
        import fsspec  # an extra: only who has remote stores needs it

        return fsspec.core.url_to_fs(url)  # pyright: ignore[reportUnknownMemberType]
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"no driver for this URL: {error}.",
            where=url,
            hint='Install it (for S3: pip install "datahall[s3]"); docs/storage.md has more.',
        ) from error
    except OSError as error:
        raise StoreFault(f"the driver does not start: {error}.", where=url, hint="See docs/storage.md.") from error


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
                    f"gave up after {RETRIES} attempts: {type(error).__name__}: {error}.",
                    where=where,
                    hint="Look at the address and the credentials in the environment (docs/storage.md).",
                ) from error
            time.sleep(wait_s * 2**attempt)
    raise AssertionError("unreachable")


def _overtaken(folder: str, where: str) -> AlreadyCommitted:
    return AlreadyCommitted(
        f"{folder} was committed by another writer.", where=where, hint="Give each run a store of its own."
    )


def _refused(error: Exception) -> bool:
    """Whether the store refused a conditional put: HTTP 412, or 409 while another put is under way."""
    told: Any = getattr(error.__cause__ or error, "response", None)
    status = told.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(told, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return isinstance(error, FileExistsError) or status in {409, 412}


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _changed(entry: dict[str, Any]) -> float:
    names = ("LastModified", "last_modified", "mtime", "created")
    stamp: Any = next((entry[name] for name in names if entry.get(name)), float("inf"))
    return float(stamp.timestamp()) if hasattr(stamp, "timestamp") else float(stamp)
