"""A text from a file, as bytes: any encoding will do, since a byte is a token; what is no text at all is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from datahall.base.errors import UsageError

_KINDS: Final = (
    (rb"PAR1", "Parquet", "Write its text column to a file first."),
    (rb"ARROW1|FEA1", "Arrow", "Write its text column to a file first."),
    (rb"\x1f\x8b", "gzip", "Unpack it first (gunzip)."),
    (rb"\x28\xb5\x2f\xfd", "zstd", "Unpack it first (unzstd)."),
    (rb"\xfd7zXZ\x00|BZh[1-9]1AY", "xz or bzip2", "Unpack it first."),
    (rb"PK\x03\x04", "zip", "Unpack it first (unzip); docx, xlsx, npz and .pt are such files, too."),
    (rb"\x93NUMPY|\x89HDF|SQLite format 3\x00", "a table of numbers", "Write its text to a file first."),
    (rb"%PDF-", "PDF", "Take its text first (pdftotext)."),
    (rb"\xff\xfe|\xfe\xff|\x00\x00\xfe\xff", "UTF-16 or UTF-32", "Make it UTF-8 first (iconv -t UTF-8)."),
)


def read_text(path: str, where: str) -> bytes:
    """The bytes of the text file at `path` (~ is the home); UsageError names `where` it was asked for."""
    try:
        text = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(
            f"the text {path} cannot be read: {error.strerror}.", where=where, hint="Name one text file."
        ) from error
    if not text:
        raise UsageError(f"the text {path} is empty.", where=where, hint="Name a file with a text in it.")
    for beginning, kind, hint in _KINDS:
        if re.match(beginning, text):
            raise UsageError(f"{path} is no text: it begins like {kind}.", where=where, hint=hint)
    return text
