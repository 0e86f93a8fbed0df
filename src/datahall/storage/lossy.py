"""fp32 stored as bf16 or as int8 with a scale for each 128 values; only where the case allows a loss.

bf16 keeps 8 bits of mantissa (relative error at most 2^-8), int8 an absolute error of at most 1/254 of the largest
value of its block.  Neither is for optimiser state that training resumes from without a look at the loss.
"""

from __future__ import annotations

import numpy as np

BLOCK = 128


def bf16_encode(data: memoryview) -> bytes:
    """Round to nearest, ties to even; not-a-number stays one."""
    bits = np.frombuffer(data, dtype=np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return (
        np.where(nan, (bits | np.uint32(0x400000)) >> np.uint32(16), rounded >> np.uint32(16))
        .astype(np.uint16)
        .tobytes()
    )


def bf16_decode(stored: memoryview, target: memoryview) -> None:
    """Fill `target` with fp32."""
    half = np.frombuffer(stored, dtype=np.uint16)
    np.left_shift(half.astype(np.uint32), np.uint32(16), out=np.frombuffer(target, dtype=np.uint32))


def int8_encode(data: memoryview) -> bytes:
    """Scales (fp32) of the blocks, then the values; not-a-number or infinity is refused by ValueError."""
    values = np.frombuffer(data, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("int8 cannot store infinity or not-a-number")
    padded = np.zeros(-(-values.size // BLOCK) * BLOCK, dtype=np.float32)
    padded[: values.size] = values
    blocks = padded.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    safe = np.where(scale > 0, scale, np.float32(1))
    coded = np.rint(blocks / safe[:, None]).clip(-127, 127).astype(np.int8)
    return scale.tobytes() + coded.reshape(-1)[: values.size].tobytes()


def int8_decode(stored: memoryview, target: memoryview) -> None:
    """Fill `target` with fp32."""
    out = np.frombuffer(target, dtype=np.float32)
    count = -(-out.size // BLOCK)
    scale = np.frombuffer(stored[: 4 * count], dtype=np.float32)
    coded = np.frombuffer(stored[4 * count :], dtype=np.int8)
    if coded.size != out.size:
        raise ValueError("another length than was written")
    np.multiply(coded.astype(np.float32), np.repeat(scale, BLOCK)[: out.size], out=out)
