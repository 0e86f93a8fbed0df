"""Floats as byte planes: exponents together, mantissas together, each plane compressed by zstd only if it shrinks.

The sign is rotated to the low end first, so that the top plane is the whole exponent: few values, well compressible
(the observation is ZipNN's, Hershcovitch et al. 2024; the layout here is ours).  Mantissa planes of trained weights are
noise and are stored as they are, which makes reading cheap.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 1
_RAW_ABOVE = 0.95
_WORDS: dict[int, type[np.unsignedinteger[Any]]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def planes_encode(data: memoryview, width: int, rotate: bool) -> bytes:
    """The planes of `data` one after another: a mark (raw or zstd), a length, the bytes."""
    import zstandard

    squeeze = zstandard.ZstdCompressor(level=LEVEL)
    parts: list[bytes] = []
    for plane in _split(data, width, rotate):
        # a sample tells noise from structure; compressing a noisy plane whole would be wasted time
        sample = plane[: 1 << 16]
        packed = b""
        if sample.size and len(squeeze.compress(sample.data)) < _RAW_ABOVE * sample.size:
            packed = squeeze.compress(plane.data)
        use = bool(packed) and len(packed) < _RAW_ABOVE * plane.size
        body = packed if use else plane.tobytes()
        parts += [struct.pack("<BI", use, len(body)), body]
    return b"".join(parts)


def planes_decode(stored: memoryview, target: memoryview, width: int, rotate: bool) -> None:
    """Fill `target`; ValueError when the stored planes do not fit it."""
    import zstandard

    expand = zstandard.ZstdDecompressor()
    count = max(1, width)
    size = len(target) // count
    at = 0
    planes: list[NDArray[np.uint8]] = []
    for number in range(count):
        packed, length = struct.unpack_from("<BI", stored, at)
        body = stored[at + 5 : at + 5 + length]
        at += 5 + length
        held = size if number < count - 1 or width > 1 else len(target)
        plain = expand.decompress(body, max_output_size=held) if packed else body
        if len(plain) != held:
            raise ValueError(f"a plane of {len(plain)} bytes instead of {held}")
        planes.append(np.frombuffer(plain, dtype=np.uint8))
    if at != len(stored):
        raise ValueError("bytes after the last plane")
    _join(planes, target, width, rotate)


def _split(data: memoryview, width: int, rotate: bool) -> list[NDArray[np.uint8]]:
    if width == 1:
        return [np.frombuffer(data, dtype=np.uint8)]
    words: NDArray[Any] = np.frombuffer(data, dtype=_WORDS[width])
    if rotate:
        words = (words << 1) | (words >> (8 * width - 1))
    return [(words >> (8 * n)).astype(np.uint8) if n else words.astype(np.uint8) for n in range(width)]


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
