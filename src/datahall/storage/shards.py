"""A text as a data set in shards on any tier: tokens, or text that becomes tokens when it is read.

A folder holds `data.json` and one file a shard, each with its digest; the last few shards are held out.  The manifest
appears last, so a reader never sees half a data set.  Which samples are read when is `order`'s; a cache before it is
`input`'s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import UsageError
from datahall.case.data import FORMAT_VERSION, MANIFEST, samples_in
from datahall.storage import byte_pairs, codec
from datahall.storage.faults import CorruptShard, StoreFault
from datahall.storage.input import ShardedData
from datahall.storage.manifest import digest
from datahall.storage.place import Place, open_place

HELD_OUT_SHARE = 0.02
FORMS = ("tokens", "text")
_LEARNT_BYTES = 1 << 18  # of a text: as much as merges are learnt from
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
            raise CorruptShard("a byte is not what was written.", where=where)
        return _prepared(self, shard, stored, where)

    def _data(self, shards: Sequence[Shard], sequence: int) -> ShardedData:
        word = np.dtype(np.uint16 if self.merges else np.uint8)
        return ShardedData(
            sizes=[samples_in(shard.tokens, sequence) for shard in shards],
            read=lambda number: self.prepared(shards[number]),
            bytes_of=lambda number: shards[number].prepared_bytes,
            split=lambda _, prepared: Windows(np.frombuffer(prepared, dtype=word), sequence),
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
    shards = [_write(place, folder, n, piece, form, codec_name, learnt) for n, piece in enumerate(pieces)]
    held_out = max(1, round(HELD_OUT_SHARE * len(shards)))
    made = ShardSet(place, folder, form, learnt, tuple(shards), held_out, 0.0)
    made = replace(made, prepare_s=median(_seconds_of(made, shard) for shard in shards[:_TIMED]))
    told: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "form": form,
        "vocab": made.vocab,
        "merges": learnt,
        "held_out": held_out,
        "prepare_s": made.prepare_s,
        "shards": [{name: getattr(shard, name) for name in Shard.__dataclass_fields__} for shard in shards],
    }
    place.commit(folder, MANIFEST, json.dumps(told).encode(), replace=False)
    return made


def open_shards(path: str) -> ShardSet:
    """The data set at `path`; StoreFault where there is none, or one of another format."""
    place, folder = placed(path)
    try:
        found = json.loads(place.read(folder, MANIFEST))
        if found["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {found['format_version']}")
        merges = tuple((int(first), int(second)) for first, second in found["merges"])
        shards = tuple(Shard(**shard) for shard in found["shards"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreFault(f"{MANIFEST} describes no data set ({error}).", where=path) from error
    if any("/" in shard.name or shard.name.startswith(".") for shard in shards):
        raise StoreFault(f"{MANIFEST} names a file outside of the data set.", where=path)
    return ShardSet(place, folder, found["form"], merges, shards, int(found["held_out"]), float(found["prepare_s"]))


def placed(path: str) -> tuple[Place, str]:
    """The place that holds the folder at `path`, and the folder's name."""
    parent, _, name = path.rstrip("/").rpartition("/")
    return open_place(parent or ("/" if path.startswith("/") else ".")), name


def _write(
    place: Place, folder: str, number: int, text: bytes, form: str, codec_name: str, merges: Sequence[tuple[int, int]]
) -> Shard:
    tokens = byte_pairs.encode(text, merges)
    raw = memoryview(text if form == "text" else tokens.tobytes())
    used, stored = codec.encode(codec_name, raw, _dtype(merges, form))
    name = f"shard-{number:05d}.bin"
    sink = place.create(folder, name)
    sink.write(stored)
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
