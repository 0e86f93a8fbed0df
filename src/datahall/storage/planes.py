"""Floats as byte planes: exponents together, mantissas together, each plane compressed by zstd only if it shrinks.

The sign is rotated to the low end first, so that the top plane is the whole exponent: few values, well compressible
(the observation is ZipNN's, Hershcovitch et al. 2024; the layout here is ours).  Mantissa planes of trained weights are
noise and are stored as they are, which makes reading cheap.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 1
_RAW_ABOVE = 0.95
_HEAD = struct.Struct("<BI")  # of a plane: whether it is compressed, and its bytes
_BLOCK = 1 << 17  # words that are shifted at a time: they stay in a core's cache, and so does what is made of them
_WORDS: dict[int, type[np.unsignedinteger[Any]]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def planes_encode(data: memoryview, width: int, rotate: bool) -> memoryview:
    """The planes of `data` one after another: a mark (raw or zstd), a length, the bytes."""
    import zstandard

    squeeze = zstandard.ZstdCompressor(level=LEVEL)
    coded = memoryview(bytearray(len(data) + _HEAD.size * max(1, width)))  # at once: growing it would copy it
    end = 0
    for plane in _split(data, width, rotate):
        # a sample tells noise from structure; compressing a noisy plane whole would be wasted time
        sample = plane[: 1 << 16]
        packed = b""
        if sample.size and len(squeeze.compress(sample.data)) < _RAW_ABOVE * sample.size:
            packed = squeeze.compress(plane.data)
        use = bool(packed) and len(packed) < _RAW_ABOVE * plane.size
        body = packed if use else plane.data
        _HEAD.pack_into(coded, end, use, len(body))
        end += _HEAD.size
        coded[end : end + len(body)] = body
        end += len(body)
    return coded[:end]


def planes_decode(stored: memoryview, target: memoryview, width: int, rotate: bool) -> None:
    """Fill `target`; ValueError when the stored planes do not fit it."""
    import zstandard

    expand = zstandard.ZstdDecompressor()
    count = max(1, width)
    size = len(target) // count
    at = 0
    planes: list[NDArray[np.uint8]] = []
    for number in range(count):
        packed, length = _HEAD.unpack_from(stored, at)
        at += _HEAD.size
        body = stored[at : at + length]
        at += length
        held = size if number < count - 1 or width > 1 else len(target)
        plain = expand.decompress(body, max_output_size=held) if packed else body
        if len(plain) != held:
            raise ValueError(f"a plane of {len(plain)} bytes instead of {held}")
        planes.append(np.frombuffer(plain, dtype=np.uint8))
    if at != len(stored):
        raise ValueError("bytes after the last plane")
    _join(planes, target, width, rotate)


def _split(data: memoryview, width: int, rotate: bool) -> Iterator[NDArray[np.uint8]]:
    """Byte n of each word, one plane after the other, so that no copy of all words is held."""
    if width == 1:
        yield np.frombuffer(data, dtype=np.uint8)
        return
    words: NDArray[Any] = np.frombuffer(data, dtype=_WORDS[width])
    for n in range(width):
        plane = np.empty(len(words), dtype=np.uint8)
        for at in range(0, len(words), _BLOCK):
            block = words[at : at + _BLOCK]
            if not rotate:
                plane[at : at + _BLOCK] = block >> (8 * n)
            elif n:  # turned left by one bit, byte n begins a bit lower
                plane[at : at + _BLOCK] = block >> (8 * n - 1)
            else:  # and the lowest bit is the one that was the highest
                plane[at : at + _BLOCK] = (block << 1) | (block >> (8 * width - 1))
        yield plane


def _join(planes: list[NDArray[np.uint8]], target: memoryview, width: int, rotate: bool) -> None:
    if width == 1:
        target[:] = planes[0].data
        return
    word = _WORDS[width]
    words: NDArray[Any] = planes[0].astype(word)
    for number in range(1, width):
        words |= planes[number].astype(word) << word(8 * number)
    out: NDArray[Any] = np.frombuffer(target, dtype=word)
    if rotate:
        np.right_shift(words, 1, out=out)
        words <<= word(8 * width - 1)
        out |= words
    else:
        out[:] = words
