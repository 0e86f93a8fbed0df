"""Write a file whole or not at all, so that neither a reader nor the next run ever meets half of one.

The new text is written and flushed beside its place, then renamed.  Checkpoints have a writer of their own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from datahall.base.errors import WorldFailed

HINT = "Free some space, or choose another place with --out or --runs."


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8; the folder is made where it is missing.  WorldFailed if that cannot be done."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content`; the folder is made where it is missing.  WorldFailed if that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(beside, 0o644)
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def check_writable(path: Path) -> None:
    """WorldFailed unless `path` could be written now; for work that takes long before it has something to write."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> WorldFailed:
    """The error for people."""
    return WorldFailed(f"cannot write here: {error.strerror or error}.", where=str(path), hint=HINT)
