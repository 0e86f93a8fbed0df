"""Byte-pair encoding: text as fewer tokens, by merging the commonest pairs of neighbours again and again.

After Gage 1994 (A new algorithm for data compression) and Sennrich et al. 2016 (arXiv 1508.07909).  Pieces of text are
encoded whole, without splitting at spaces first; pretrained models bring tokenisers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BYTES = 256  # the tokens before any merge
Tokens = NDArray[Any]


def learn(text: bytes, merges: int) -> list[tuple[int, int]]:
    """Up to `merges` pairs, the commonest first; fewer where no pair comes twice."""
    tokens = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    found: list[tuple[int, int]] = []
    for token in range(BYTES, BYTES + merges):
        counts = np.bincount(tokens[:-1] * token + tokens[1:]) if len(tokens) > 1 else np.zeros(1)
        pair = int(counts.argmax())
        if counts[pair] < 2:
            break
        found.append((pair // token, pair % token))
        tokens = _merged(tokens, found[-1], token)
    return found


def encode(text: bytes, merges: Sequence[tuple[int, int]]) -> Tokens:
    """The tokens of a text, 8 bits each without merges, 16 with them."""
    tokens: Tokens = np.frombuffer(text, dtype=np.uint8)
    if not merges:
        return tokens
    tokens = tokens.astype(np.uint16)
    for number, pair in enumerate(merges):
        tokens = _merged(tokens, pair, BYTES + number)
    return tokens


def decode(tokens: Tokens, merges: Sequence[tuple[int, int]]) -> bytes:
    """The text that `encode` was given."""
    words = [bytes([value]) for value in range(BYTES)]
    for first, second in merges:
        words.append(words[first] + words[second])
    return b"".join(words[token] for token in tokens.tolist())


def _merged(tokens: Tokens, pair: tuple[int, int], into: int) -> Tokens:
    """Every `pair`, from the left and without overlaps, replaced by one token."""
    at = np.flatnonzero((tokens[:-1] == pair[0]) & (tokens[1:] == pair[1]))
    if pair[0] == pair[1] and len(at):
        begins = np.flatnonzero(np.diff(at, prepend=-2) != 1)  # of runs such as aaa, in which every second pair counts
        at = at[(np.arange(len(at)) - begins[np.cumsum(np.isin(np.arange(len(at)), begins)) - 1]) % 2 == 0]
    if not len(at):
        return tokens
    tokens = tokens.copy()
    tokens[at] = into
    return np.delete(tokens, at + 1)
