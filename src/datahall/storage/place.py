"""A folder on any file system, with the few promises that a store needs.

On a local disk: files and folder entries are synchronised before a manifest appears, it appears by a hard link (so the
second of two writers fails), and links are not followed.  Whole pieces are written past the page cache.  Other file
systems: `remote`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import UsageError
from datahall.storage.faults import AlreadyCommitted, CorruptShard, NoCheckpoint, StoreFault, Unsafe
from datahall.storage.plan import PIECE_BYTES
from datahall.storage.sink import Sink


class Place(Protocol):
    """A folder tree of files that are written once."""

    name: str

    def folders(self) -> list[str]: ...
    def files(self, folder: str) -> dict[str, tuple[int, float]]:
        """Name to (bytes, seconds since the epoch of the last change)."""
        ...

    def create(self, folder: str, name: str) -> Sink: ...
    def read(self, folder: str, name: str) -> bytes: ...
    def read_into(self, folder: str, name: str, offset: int, target: memoryview) -> int:
        """Fill `target` from `offset`; how many bytes there were."""
        ...

    def commit(self, folder: str, name: str, data: bytes, replace: bool) -> None:
        """Make the file appear whole and at once; AlreadyCommitted if it is there and `replace` is false."""
        ...

    def remove(self, folder: str, name: str) -> None: ...
    def remove_folder(self, folder: str) -> None:
        """Remove a folder if it is empty."""
        ...


def open_place(path: str | Path | Place) -> Place:
    """The place at a local path (~ is the home) or a URL of fsspec (s3://bucket/prefix, hdfs://host/path).

    A place is its own.
    """
    if not isinstance(path, str | Path):
        return path
    text = str(path)
    if not text.strip():
        raise UsageError("the path of the store is empty.", hint="Name a folder or a URL.")
    if "://" not in text or text.startswith("file://"):
        return LocalPlace(Path(text.removeprefix("file://")).expanduser())
    from datahall.storage.remote import RemotePlace  # fsspec is loaded only for who has a remote store

    return RemotePlace(text)


class LocalPlace:
    """A folder of this machine's file systems."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def folders(self) -> list[str]:
        """Names of the folders, sorted; none if the place does not exist yet."""
        try:
            entries = list(os.scandir(self.root))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreFault(f"this cannot be listed ({error.strerror}).", where=self.name) from error
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def files(self, folder: str) -> dict[str, tuple[int, float]]:
        """Name to (bytes, time of the last change) of a folder's files."""
        try:
            entries = list(os.scandir(self._inside(folder)))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreFault(f"{folder} cannot be listed ({error.strerror}).", where=self.name) from error
        found: dict[str, tuple[int, float]] = {}
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another writer's temporary file may be gone by now
                if entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    found[entry.name] = (stat.st_size, stat.st_mtime)
        return found

    def create(self, folder: str, name: str) -> Sink:
        """A new file; the folder is made when it is missing."""
        return _LocalSink(self._made(folder) / name)

    def read(self, folder: str, name: str) -> bytes:
        """The whole file."""
        fd = self._open(folder, name)
        try:
            with os.fdopen(fd, "rb") as file:
                return file.read()
        except OSError as error:
            raise _unread(error, self.root / folder / name) from error

    def read_into(self, folder: str, name: str, offset: int, target: memoryview) -> int:
        """Fill `target` from `offset`."""
        fd = self._open(folder, name)
        try:
            done = 0
            while done < len(target):
                got = os.preadv(fd, [target[done:]], offset + done)
                if got == 0:
                    break
                done += got
            return done
        except OSError as error:
            raise _unread(error, self.root / folder / name) from error
        finally:
            os.close(fd)

    def commit(self, folder: str, name: str, data: bytes, replace: bool) -> None:
        """By a temporary file, synchronised, and a link or a rename."""
        parent = self._made(folder)  # a state without tensors has no shard that made it
        temporary = parent / f".{name}.{secrets.token_hex(8)}"
        sink = _LocalSink(temporary)
        try:
            sink.write(data)
            sink.close()
            if replace:
                os.replace(temporary, parent / name)
            else:
                os.link(temporary, parent / name)
        except FileExistsError as error:
            raise AlreadyCommitted(
                f"{folder} was committed by another writer.", where=self.name, hint="Give each run a store of its own."
            ) from error
        except OSError as error:
            raise StoreFault(
                f"{folder} cannot be committed ({error.strerror}).",
                where=self.name,
                hint="A store needs a file system with hard links, or an object store.",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(parent)
        _sync_folder(self.root)

    def remove(self, folder: str, name: str) -> None:
        """Remove a file; nothing happens when it is gone."""
        path = self._inside(folder) / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreFault(f"the file cannot be removed ({error.strerror}).", where=str(path)) from error

    def remove_folder(self, folder: str) -> None:
        """Remove an empty folder."""
        try:
            (self.root / folder).rmdir()
        except OSError:
            return

    def _inside(self, folder: str) -> Path:
        """The folder's path; Unsafe where it is a link, which may leave the place."""
        path = self.root / folder
        if path.is_symlink():
            raise Unsafe("the folder is a link, which is not followed.", where=str(path), hint="Put a folder there.")
        return path

    def _made(self, folder: str) -> Path:
        path = self._inside(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreFault(
                f"the folder cannot be made ({error.strerror}).",
                where=str(path),
                hint="Name a folder where you may write.",
            ) from error
        return path

    def _open(self, folder: str, name: str) -> int:
        path = self._inside(folder) / name
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NoCheckpoint("the file is missing.", where=str(path)) from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CorruptShard("the file is a link, which is not followed.", where=str(path)) from error
            raise StoreFault(f"the file cannot be opened ({error.strerror}).", where=str(path)) from error


class _LocalSink:
    """Whole pieces go past the page cache, from memory that is used again and again; the rest as usual.

    The cache would take as much fresh memory as the file has bytes, and write most of it only in the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._failed(error) from error
        self._piece = _taken_piece()
        self._held = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            part = min(len(view), PIECE_BYTES - self._held)
            into = self._piece[self._held : self._held + part]
            np.copyto(into, np.frombuffer(view[:part], dtype=np.uint8))  # lets the other threads go on
            self._held, view = self._held + part, view[part:]
            if self._held == PIECE_BYTES:
                self._flush(direct=True)

    def close(self) -> None:
        try:
            self._flush(direct=False)
            os.fsync(self._fd)
        except OSError as error:
            self.abandon()
            raise self._failed(error) from error
        except StoreFault:
            self.abandon()
            raise
        os.close(self._fd)
        _FREE.append(self._piece)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._path.unlink(missing_ok=True)
        _FREE.append(self._piece)

    def _flush(self, direct: bool) -> None:
        view, self._held = self._piece.data[: self._held], 0
        while view:
            try:
                _past_the_cache(self._fd, direct)
                view = view[os.write(self._fd, view) :]
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise self._failed(error) from error
                direct = False  # this file system, or what is left of the piece, goes through the cache only

    def _failed(self, error: OSError) -> StoreFault:
        return StoreFault(
            f"writing failed: {error.strerror}.",
            where=str(self._path),
            hint="Nothing that was committed is touched; " + (_MEND.get(error.errno or 0) or "save again elsewhere."),
        )


_MEND = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room and save again.")
_FREE: list[NDArray[np.uint8]] = []  # pieces of files that are closed: fresh memory can cost more than the disk


def _taken_piece() -> NDArray[np.uint8]:
    try:
        return _FREE.pop()
    except IndexError:
        memory = mmap.mmap(-1, PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(memory, dtype=np.uint8)  # it begins at a page, as disks ask


def _past_the_cache(fd: int, wanted: bool) -> None:
    """Whether the file is written past the page cache from now on; OSError where that cannot be."""
    flag: int = getattr(os, "O_DIRECT", 0)  # Linux has it
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | flag if wanted else flags & ~flag)


def _unread(error: OSError, path: Path) -> StoreFault:
    """What a failed read means: a bad sector is damage, and so is a folder in the place of the file."""
    damage = error.errno in {errno.EIO, errno.EISDIR}
    return (CorruptShard if damage else StoreFault)(f"the file cannot be read ({error.strerror}).", where=str(path))


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
