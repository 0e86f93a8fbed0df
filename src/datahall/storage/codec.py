"""How the bytes of a tensor are stored: general compressors, ones made for floats, and lossy ones that must be allowed.

A codec turns a few MiB of one tensor into bytes and back.  What does not shrink is stored as it is (`encode` says
so), so no codec makes a checkpoint larger.  Libraries are imported when their codec is used.  Which codec pays where is
`estimate.pick_codec`'s question, not this file's.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datahall.base.errors import UsageError
from datahall.storage.faults import CorruptShard, StoreFault
from datahall.storage.lossy import bf16_decode, bf16_encode, int8_decode, int8_encode
from datahall.storage.planes import planes_decode, planes_encode

Buffer = bytes | bytearray | memoryview
STORE_RAW_ABOVE: Final = 0.98
LOSSY_LEAST_BYTES: Final = 1024  # less is kept exactly: counters and scalars are small, and rounding them gains nothing

_WIDTH: Final = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2}


@dataclass(frozen=True, slots=True)
class Codec:
    """`encode(data, dtype)` to stored bytes; `decode(stored, target, dtype)` fills `target` exactly."""

    name: str
    encode: Callable[[memoryview, str], Buffer]
    decode: Callable[[memoryview, memoryview, str], None]
    lossless: bool = True


def codec(name: str) -> Codec:
    """The codec called `name`; UsageError lists the names."""
    if name not in CODECS:
        raise UsageError(f"there is no codec {name!r}.", hint=f"Codecs: {', '.join(CODECS)}.")
    return CODECS[name]


def encode(name: str, data: memoryview, dtype: str) -> tuple[str, Buffer]:
    """The codec that was used in the end ("none" when nothing shrank) and the stored bytes.

    StoreFault where its library is not installed.
    """
    chosen = codec(name)
    if name == "none" or len(data) == 0:
        return "none", data
    if not chosen.lossless and (dtype != "float32" or len(data) < LOSSY_LEAST_BYTES):
        return encode("planes", data, dtype)
    try:
        stored = chosen.encode(data, dtype)
    except ImportError as error:
        raise _missing(name, error) from error
    return (name, stored) if len(stored) < STORE_RAW_ABOVE * len(data) else ("none", data)


def decode(name: str, stored: memoryview, target: memoryview, dtype: str, where: str) -> None:
    """Fill `target`; CorruptShard when the stored bytes do not decode to just as many, StoreFault without the codec."""
    if name not in CODECS:
        raise StoreFault(
            f"this version has no codec {name!r}.", where=where, hint="Read it with the version that wrote it."
        )
    try:
        CODECS[name].decode(stored, target, dtype)
    except ImportError as error:
        raise _missing(name, error, where) from error
    except MemoryError:
        raise
    except Exception as error:  # each library has its own errors; all of them mean damage here
        raise CorruptShard(f"a chunk does not decode ({name}: {error}).", where=where) from error


def width(dtype: str) -> int:
    """Bytes of an element as the shuffling codecs see it."""
    return _WIDTH.get(dtype, 1)


def _missing(name: str, error: ImportError, where: str = "") -> StoreFault:
    return StoreFault(
        f"codec {name!r} needs {error.name}, which is not installed.",
        where=where,
        hint="Install datahall[train,codecs].",
    )


def _fill(target: memoryview, data: Any) -> None:
    if len(data) != len(target):
        raise ValueError(f"{len(data)} bytes instead of {len(target)}")
    target[:] = data


def _none_encode(data: memoryview, dtype: str) -> Buffer:
    return data


def _none_decode(stored: memoryview, target: memoryview, dtype: str) -> None:
    _fill(target, stored)


def _zstd_encode(data: memoryview, dtype: str) -> Buffer:
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(data)


def _zstd_decode(stored: memoryview, target: memoryview, dtype: str) -> None:
    import zstandard

    _fill(target, zstandard.ZstdDecompressor().decompress(stored, max_output_size=len(target)))


def _lz4_encode(data: memoryview, dtype: str) -> Buffer:
    import lz4.block  # pyright: ignore[reportMissingTypeStubs]

    return lz4.block.compress(data, store_size=False)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _lz4_decode(stored: memoryview, target: memoryview, dtype: str) -> None:
    import lz4.block  # pyright: ignore[reportMissingTypeStubs]

    data: Any = lz4.block.decompress(stored, uncompressed_size=len(target))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    _fill(target, data)


def _gzip_encode(data: memoryview, dtype: str) -> Buffer:
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    return deflate.compress(data) + deflate.flush()


def _gzip_decode(stored: memoryview, target: memoryview, dtype: str) -> None:
    inflate = zlib.decompressobj(31)
    data = inflate.decompress(stored, len(target) + 1)
    if not inflate.eof:
        raise ValueError("the stream does not end where it should")
    _fill(target, data)


def _snappy_encode(data: memoryview, dtype: str) -> Buffer:
    import cramjam

    out = bytearray(cramjam.snappy.compress_raw_max_len(data))
    return memoryview(out)[: cramjam.snappy.compress_raw_into(data, out)]


def _snappy_decode(stored: memoryview, target: memoryview, dtype: str) -> None:
    import cramjam

    if cramjam.snappy.decompress_raw_len(stored) != len(target):
        raise ValueError("another length than was written")
    cramjam.snappy.decompress_raw_into(stored, target)


def _planes_encode(data: memoryview, dtype: str) -> Buffer:
    return planes_encode(data, width(dtype), rotate=dtype in {"float32", "bfloat16", "float64"})


def _planes_decode(stored: memoryview, target: memoryview, dtype: str) -> None:
    planes_decode(stored, target, width(dtype), rotate=dtype in {"float32", "bfloat16", "float64"})


def _blosc2_encode(data: memoryview, dtype: str) -> Buffer:
    blosc2 = _blosc2()
    return blosc2.compress2(
        _array(data),
        typesize=width(dtype),
        codec=blosc2.Codec.ZSTD,
        clevel=1,
        filters=[blosc2.Filter.BITSHUFFLE],
        filters_meta=[0],
        nthreads=1,
    )


def _blosc2_decode(stored: memoryview, target: memoryview, dtype: str) -> None:
    blosc2 = _blosc2()
    if blosc2.get_cbuffer_sizes(bytes(stored[:32]))[0] != len(target):
        raise ValueError("another length than was written")
    blosc2.decompress2(bytes(stored), dst=_array(target), nthreads=1)


def _blosc2() -> Any:
    return importlib.import_module("blosc2")  # its own types say dict where numbers belong


def _zipnn_encode(data: memoryview, dtype: str) -> Buffer:
    return bytes(_zipnn(dtype).compress(bytes(data)))


def _zipnn_decode(stored: memoryview, target: memoryview, dtype: str) -> None:
    _fill(target, _zipnn(dtype).decompress(bytes(stored)))


def _zipnn(dtype: str) -> Any:
    import zipnn  # pyright: ignore[reportMissingTypeStubs]

    kind = dtype if dtype in {"bfloat16", "float16", "float32"} else "float32"
    return zipnn.ZipNN(bytearray_dtype=kind, input_format="byte", threads=1)  # pyright: ignore[reportUnknownMemberType]


def _array(view: memoryview) -> NDArray[np.uint8]:
    return np.frombuffer(view, dtype=np.uint8)


def _lossy(
    encoder: Callable[[memoryview], Buffer], decoder: Callable[[memoryview, memoryview], None]
) -> tuple[Callable[[memoryview, str], Buffer], Callable[[memoryview, memoryview, str], None]]:
    return lambda data, dtype: encoder(data), lambda stored, target, dtype: decoder(stored, target)


CODECS: Final[dict[str, Codec]] = {
    "none": Codec("none", _none_encode, _none_decode),
    "lz4": Codec("lz4", _lz4_encode, _lz4_decode),
    "snappy": Codec("snappy", _snappy_encode, _snappy_decode),
    "zstd": Codec("zstd", _zstd_encode, _zstd_decode),
    "gzip": Codec("gzip", _gzip_encode, _gzip_decode),
    "planes": Codec("planes", _planes_encode, _planes_decode),
    "blosc2": Codec("blosc2", _blosc2_encode, _blosc2_decode),
    "zipnn": Codec("zipnn", _zipnn_encode, _zipnn_decode),
    "lossy-bf16": Codec("lossy-bf16", *_lossy(bf16_encode, bf16_decode), lossless=False),
    "lossy-int8": Codec("lossy-int8", *_lossy(int8_encode, int8_decode), lossless=False),
}
