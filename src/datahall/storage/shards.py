"""A text as a data set in shards on any tier: tokens, or text that becomes tokens when it is read.

A folder holds `data.json` and one file a shard, each with its digest; the last few shards are held out.  The manifest
appears last, so a reader never sees half a data set.  Which samples are read when is `order`'s; a cache before it is
`input`'s.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import UsageError
from datahall.case.data import FORMAT_VERSION, MANIFEST, samples_in
from datahall.storage import byte_pairs, codec
from datahall.storage.faults import CorruptShard, NoCheckpoint, StoreFault
from datahall.storage.input import ShardedData
from datahall.storage.manifest import digest
from datahall.storage.place import Place, open_place

HELD_OUT_SHARE = 0.02
FORMS = ("tokens", "text")
_LEARNT_BYTES = 1 << 18  # of a text: as much as merges are learnt from
_ANEW = "Make it anew: `datahall data shard TEXT FOLDER` (docs/input.md)."
_TOLD = {"format_version", "form", "vocab", "merges", "held_out", "prepare_s", "shards"}
_TIMED = 4  # shards that are prepared again, to know what it takes


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: the text's bytes, tokens, the bytes stored and prepared, and the digest of what is stored."""

    name: str
    text_bytes: int
    tokens: int
    stored_bytes: int
    prepared_bytes: int
    codec: str
    digest: str


@dataclass(frozen=True, slots=True)
class ShardSet:
    """A data set that lies in `folder` of `place`."""

    place: Place
    folder: str
    form: str
    merges: tuple[tuple[int, int], ...]
    shards: tuple[Shard, ...]
    held_out: int
    prepare_s: float

    @property
    def vocab(self) -> int:
        """Different tokens."""
        return byte_pairs.BYTES + len(self.merges)

    def training(self, sequence: int) -> ShardedData:
        """The samples to train on: windows of `sequence` + 1 tokens, one every `sequence`."""
        return self._data(self.shards[: len(self.shards) - self.held_out], sequence)

    def held(self, sequence: int) -> ShardedData:
        """The samples that training never sees."""
        return self._data(self.shards[len(self.shards) - self.held_out :], sequence)

    def prepared(self, shard: Shard) -> bytes:
        """A shard's tokens, from its file; CorruptShard if that is not what was written."""
        stored, where = self.place.read(self.folder, shard.name), f"{self.place.name}/{self.folder}/{shard.name}"
        if digest(stored) != shard.digest:
            raise CorruptShard("a byte is not what was written.", where=where, hint=_ANEW)
        return _prepared(self, shard, stored, where)

    def _data(self, shards: Sequence[Shard], sequence: int) -> ShardedData:
        word = np.dtype(np.uint16 if self.merges else np.uint8)
        return ShardedData(
            sizes=[samples_in(shard.tokens, sequence) for shard in shards],
            read=lambda number: self.prepared(shards[number]),
            bytes_of=lambda number: shards[number].prepared_bytes,
            split=lambda _, prepared: Windows(np.frombuffer(prepared, dtype=word), sequence),
            content=digest("".join(shard.digest for shard in shards).encode()),
        )


class Windows:
    """The samples of a shard."""

    def __init__(self, tokens: NDArray[Any], sequence: int) -> None:
        self.tokens, self.sequence = tokens, sequence

    def __len__(self) -> int:
        return samples_in(len(self.tokens), self.sequence)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.tokens[index * self.sequence : (index + 1) * self.sequence + 1]


def write_shards(
    path: str, text: bytes, shard_bytes: int, *, form: str = "tokens", codec_name: str = "none", merges: int = 0
) -> ShardSet:
    """Cut `text` into shards of `shard_bytes` at `path`, which must hold no data set yet."""
    if form not in FORMS:
        raise UsageError(f"shards hold {' or '.join(FORMS)}, not {form!r}.", where="--form")
    if not codec.codec(codec_name).lossless:
        raise UsageError(f"codec {codec_name!r} loses tokens.", where="--codec", hint="Choose a lossless one.")
    if shard_bytes < 1:
        raise UsageError("a shard holds at least one byte of text.", where="--shard", hint='Write it like "1 MiB".')
    pieces = [text[at : at + shard_bytes] for at in range(0, len(text), shard_bytes)]
    if len(pieces) < 2:
        raise UsageError(
            f"{len(text):,} bytes of text are one shard, and one is held out.",
            where="--shard",
            hint="Choose shards of less than half the text.",
        )
    place, folder = placed(path)
    if MANIFEST in place.files(folder):
        raise UsageError("a data set lies here already.", where=path, hint="Choose another folder, or remove it.")
    learnt = tuple(byte_pairs.learn(text[:_LEARNT_BYTES], merges))
    token = secrets.token_hex(4)  # of this attempt: two writers never share a file
    names = [f"shard-{number:05d}-{token}.bin" for number in range(len(pieces))]
    try:
        pairs = zip(names, pieces, strict=True)
        shards = [_write(place, folder, name, piece, form, codec_name, learnt) for name, piece in pairs]
        made = ShardSet(place, folder, form, learnt, tuple(shards), max(1, round(HELD_OUT_SHARE * len(shards))), 0.0)
        made = replace(made, prepare_s=median(_seconds_of(made, shard) for shard in shards[:_TIMED]))
        place.commit(folder, MANIFEST, _described(made), replace=False)
    except BaseException:
        _take_back(place, folder, names)
        raise
    return made


def open_shards(path: str) -> ShardSet:
    """The data set at `path`; StoreFault where there is none, or one that is damaged or of another format."""
    place, folder = placed(path)
    try:
        found = json.loads(place.read(folder, MANIFEST))
        told = found.pop("digest", None)  # the first data sets have none
        if found["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {found['format_version']}")
        if set(found) != _TOLD or told not in (None, digest(json.dumps(found).encode())):
            raise CorruptShard("a byte is not what was written.", where=f"{path}/{MANIFEST}", hint=_ANEW)
        merges = tuple((int(first), int(second)) for first, second in found["merges"])
        shards = tuple(Shard(**shard) for shard in found["shards"])
    except NoCheckpoint as error:
        raise NoCheckpoint("there is no data set here.", where=path, hint=_ANEW) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreFault(f"{MANIFEST} describes no data set ({error}).", where=path, hint=_ANEW) from error
    if any("/" in shard.name or shard.name.startswith(".") for shard in shards):
        raise StoreFault(f"{MANIFEST} names a file outside of the data set.", where=path)
    return ShardSet(place, folder, found["form"], merges, shards, int(found["held_out"]), float(found["prepare_s"]))


def placed(path: str) -> tuple[Place, str]:
    """The place that holds the folder at `path`, and the folder's name."""
    if "://" not in path and Path(path).expanduser().is_symlink():
        path = str(Path(path).expanduser().resolve())  # a place follows no links inside itself
    parent, _, name = path.rstrip("/").rpartition("/")
    if not name or parent.endswith((":/", ":")):
        raise UsageError(
            "a data set needs a folder of its own.", where=path, hint="Name one: FOLDER or s3://BUCKET/FOLDER."
        )
    return open_place(parent or ("/" if path.startswith("/") else ".")), name


def _described(made: ShardSet) -> bytes:
    """The text of data.json; its digest is over all of it that stands before."""
    told: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "form": made.form,
        "vocab": made.vocab,
        "merges": made.merges,
        "held_out": made.held_out,
        "prepare_s": made.prepare_s,
        "shards": [{name: getattr(shard, name) for name in Shard.__dataclass_fields__} for shard in made.shards],
    }
    return json.dumps({**told, "digest": digest(json.dumps(told).encode())}).encode()


def _take_back(place: Place, folder: str, names: Sequence[str]) -> None:
    with contextlib.suppress(StoreFault):  # the first failure is the one to tell
        for name in names:
            place.remove(folder, name)
        place.remove_folder(folder)


def _write(
    place: Place, folder: str, name: str, text: bytes, form: str, codec_name: str, merges: Sequence[tuple[int, int]]
) -> Shard:
    tokens = byte_pairs.encode(text, merges)
    raw = memoryview(text if form == "text" else tokens.tobytes())
    used, stored = codec.encode(codec_name, raw, _dtype(merges, form))
    sink = place.create(folder, name)
    try:
        sink.write(stored)
    except BaseException:
        sink.abandon()
        raise
    sink.close()
    return Shard(name, len(text), len(tokens), len(stored), tokens.nbytes, used, digest(stored))


def _prepared(found: ShardSet, shard: Shard, stored: bytes, where: str) -> bytes:
    text = found.form == "text"
    raw = bytearray(shard.text_bytes if text else shard.prepared_bytes)
    codec.decode(shard.codec, memoryview(stored), memoryview(raw), _dtype(found.merges, found.form), where)
    return byte_pairs.encode(bytes(raw), found.merges).tobytes() if text else bytes(raw)


def _dtype(merges: Sequence[tuple[int, int]], form: str) -> str:
    return "int16" if merges and form == "tokens" else "uint8"


def _seconds_of(made: ShardSet, shard: Shard) -> float:
    stored = made.place.read(made.folder, shard.name)
    began = time.perf_counter()
    _prepared(made, shard, stored, shard.name)
    return time.perf_counter() - began
