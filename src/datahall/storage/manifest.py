"""The manifest of one checkpoint: which tensors, in which pieces, in which chunks of which shards, with every digest.

A checkpoint is a folder `step-00000100` with shards and `manifest.json`.  The manifest appears last and at once: a
folder without one is not a checkpoint.  A chunk is at most 4 MiB of one piece of one tensor (a piece is what one rank
holds of it), stored by a codec; its digest is over the stored bytes.  Chunks of a piece may lie in several shards, so
that one large tensor is written by several threads.  The manifest carries the SHA-256 of its own text.

This file knows neither disks nor torch.  Digests find damage, not forgery: who can write the store can write one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from datahall.storage.faults import CorruptShard, StoreFault, Unsafe

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
CHUNK_LIMIT_BYTES: Final = 64 << 20

DTYPE_BYTES: Final[Mapping[str, int]] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1,
    "complex64": 8, "complex128": 16,
}  # fmt: skip

_SHARD_NAME: Final = re.compile(r"[0-9a-f]{16}-\d{5}-\d{2}\.shard")
_UNNAMED: Final = re.compile(r"\.manifest\.json\.[0-9a-f]{16}")
_STEP_NAME: Final = re.compile(r"step-(\d{8,})")
_HEAD: Final = '{"sha256":"'
_MIDDLE: Final = '","manifest":'
_TAIL: Final = "}\n"


@dataclass(frozen=True, slots=True)
class Chunk:
    """`stored` bytes at `offset` of shard number `shard` that decode by `codec` to `raw` bytes."""

    shard: int
    offset: int
    stored: int
    raw: int
    codec: str
    digest: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor, row by row: where it begins, how large it is, and its chunks in order."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A whole tensor and the pieces that cover it."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the tensor in memory."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Shard:
    """One file beside the manifest."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One committed checkpoint.  `objects` are the entries that are no tensors, `paths` how flat names nest."""

    step: int
    token: str
    codec: str
    run: Mapping[str, Any]
    extras: Any
    shards: tuple[Shard, ...]
    tensors: Mapping[str, Tensor]
    objects: Mapping[str, Any] = field(default_factory=dict[str, Any])
    paths: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict[str, tuple[str | int, ...]])

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def raw_bytes(self) -> int:
        """Bytes of all tensors in memory."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    def chunks(self) -> Iterator[tuple[str, Chunk]]:
        """Every chunk with the name of its tensor."""
        for name, tensor in self.tensors.items():
            for piece in tensor.pieces:
                for chunk in piece.chunks:
                    yield name, chunk

    def dumps(self) -> str:
        """The text of manifest.json."""
        body = json.dumps(_to_json(self), separators=(",", ":"))
        return f"{_HEAD}{hashlib.sha256(body.encode()).hexdigest()}{_MIDDLE}{body}{_TAIL}"


def digest(stored: bytes | bytearray | memoryview) -> str:
    """The digest of a chunk as it is stored: XXH3 with 128 bits, hexadecimal."""
    import xxhash  # planning reads what stands here about data, and needs no digest

    return xxhash.xxh3_128_hexdigest(stored)


def step_folder(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(folder: str) -> int | None:
    """The step whose checkpoint lies in a folder of this name, None for any other name."""
    match = _STEP_NAME.fullmatch(folder)
    return int(match[1]) if match else None


def shard_name(token: str, rank: int, number: int) -> str:
    """The file of a rank's shard.  `token` is the attempt's: two writers never share a file."""
    return f"{token}-{rank:05d}-{number:02d}.shard"


def is_ours(name: str) -> bool:
    """Whether a file of a step's folder can only be a shard, or a manifest that did not get its name."""
    return bool(_SHARD_NAME.fullmatch(name) or _UNNAMED.fullmatch(name))


def parse(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; CorruptShard when a byte of it was changed, Unsafe when a name leaves the folder.

    StoreFault when another version wrote it.
    """
    body = _checked_body(data, where)
    try:
        found = json.loads(body)
        if found["format_version"] != FORMAT_VERSION:
            raise StoreFault(
                f"the manifest has format {found['format_version']!r}, and this version reads {FORMAT_VERSION}.",
                where=where,
                hint="Read it with the version that wrote it.",
            )
        manifest = _from_json(found)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptShard(f"the manifest cannot be read ({type(error).__name__}: {error}).", where=where) from error
    _check(manifest, where)
    return manifest


def _checked_body(data: bytes, where: str) -> bytes:
    head, middle, tail = _HEAD.encode(), _MIDDLE.encode(), _TAIL.encode()
    start = len(head) + 64 + len(middle)
    shaped = data.startswith(head) and data[len(head) + 64 : start] == middle and data.endswith(tail)
    body = data[start : len(data) - len(tail)]
    if not shaped or hashlib.sha256(body).hexdigest().encode() != data[len(head) : len(head) + 64]:
        raise CorruptShard(
            "the manifest is not what was written: its digest differs.", where=where, hint="Use an earlier checkpoint."
        )
    return body


def _check(manifest: Manifest, where: str) -> None:
    for shard in manifest.shards:
        if not _SHARD_NAME.fullmatch(shard.name):
            raise Unsafe(f"the manifest names {shard.name!r}, which is no shard of this folder.", where=where)
    for name, tensor in manifest.tensors.items():
        if tensor.dtype not in DTYPE_BYTES:
            raise Unsafe(f"tensor {name!r} has the unknown type {tensor.dtype!r}.", where=where)
        if sum(math.prod(piece.sizes) for piece in tensor.pieces) < math.prod(tensor.shape):
            raise CorruptShard(f"the pieces of {name!r} do not cover it.", where=where)
        for piece in tensor.pieces:
            held = math.prod(piece.sizes) * DTYPE_BYTES[tensor.dtype]
            if held != sum(chunk.raw for chunk in piece.chunks) or not _inside(piece, tensor.shape):
                raise CorruptShard(f"the pieces of {name!r} do not fit its shape.", where=where)
    for name, chunk in manifest.chunks():
        whole = 0 <= chunk.shard < len(manifest.shards) and 0 <= chunk.raw <= CHUNK_LIMIT_BYTES and chunk.offset >= 0
        if not whole or chunk.offset + chunk.stored > manifest.shards[chunk.shard].bytes:
            raise CorruptShard(f"a chunk of {name!r} lies outside its shard.", where=where)


def _inside(piece: Piece, shape: tuple[int, ...]) -> bool:
    if not len(piece.offsets) == len(piece.sizes) == len(shape):
        return False
    boxes = zip(piece.offsets, piece.sizes, shape, strict=True)
    return all(min(at, size) >= 0 and at + size <= whole for at, size, whole in boxes)


def _to_json(manifest: Manifest) -> dict[str, Any]:
    def piece(one: Piece) -> list[Any]:
        chunks = [[c.shard, c.offset, c.stored, c.raw, c.codec, c.digest] for c in one.chunks]
        return [list(one.offsets), list(one.sizes), chunks]

    return {
        "format": "datahall store",
        "format_version": FORMAT_VERSION,
        "step": manifest.step,
        "token": manifest.token,
        "codec": manifest.codec,
        "run": dict(manifest.run),
        "extras": manifest.extras,
        "shards": [[shard.name, shard.bytes] for shard in manifest.shards],
        "tensors": {n: [t.dtype, list(t.shape), [piece(p) for p in t.pieces]] for n, t in manifest.tensors.items()},
        "objects": dict(manifest.objects),
        "paths": {name: list(path) for name, path in manifest.paths.items()},
    }


def _from_json(data: dict[str, Any]) -> Manifest:
    def piece(one: list[Any]) -> Piece:
        return Piece(tuple(one[0]), tuple(one[1]), tuple(Chunk(*chunk) for chunk in one[2]))

    tensors = {n: Tensor(t[0], tuple(t[1]), tuple(piece(p) for p in t[2])) for n, t in data["tensors"].items()}
    return Manifest(
        step=data["step"],
        token=data["token"],
        codec=data["codec"],
        run=data["run"],
        extras=data["extras"],
        shards=tuple(Shard(name, size) for name, size in data["shards"]),
        tensors=tensors,
        objects=data["objects"],
        paths={name: tuple(path) for name, path in data["paths"].items()},
    )
