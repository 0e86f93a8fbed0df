"""Short runs before a forecast of generation: prompts of several lengths, single tokens, blocks that are moved.

Times what the run will do through the parts that will do it; fits nothing.  Settings take turns, `rounds` times.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import torch

from datahall.storage.eviction import eviction
from datahall.storage.execute_prefix import PrefixCache, read_file, write_file
from datahall.storage.place import Place
from datahall.storage.prefix import PrefixIndex, block_names
from datahall.workloads.decoding import KeyValues, next_tokens, read_prompt
from datahall.workloads.language_model import LanguageModel

_ROUNDS = 5
_BLOCKS = (16, 64)  # tokens
_KINDS = ("prompts", "steps", "look", "fill", "keep", "touch", "read", "write")


def probe_generation(
    model: LanguageModel, prompt: int, answer: int, batch: int, place: Place | None = None, rounds: int = _ROUNDS
) -> dict[str, Any]:
    """Findings for prompts of up to `prompt` tokens and answers of up to `answer`, in batches of up to `batch`.

    `prompts` has (tokens, held, seconds of each round), `steps` (batch, held, seconds of each); `look`, `fill`,
    `keep`, `touch`, `read` and `write` have (bytes of a block, 0, seconds of one in each round).
    """
    tokens = torch.randint(model.shape.vocab, (prompt,), generator=torch.Generator().manual_seed(0)).tolist()
    timed: dict[tuple[str, int, int], list[float]] = {}

    def note(kind: str, one: int, other: int, seconds: float) -> None:
        timed.setdefault((kind, one, other), []).append(seconds)

    for turn in range(rounds + 1):  # the first one warms up
        if turn == 1:
            timed.clear()
        for count, before in prompt_points(prompt):
            held = KeyValues(model.shape, 1, prompt)
            held.lengths = [before]
            note("prompts", count, before, _seconds(lambda c=count, h=held: read_prompt(model, tokens[:c], h, 0)))
        for rows, context in step_points(prompt, answer, batch):
            held = KeyValues(model.shape, rows, prompt + answer + 1)
            held.lengths = [context] * rows
            note("steps", rows, context, _seconds(lambda r=rows, h=held: next_tokens(model, tokens[:1] * r, h)))
        for size in _BLOCKS:
            for kind, seconds, block_bytes in _moves(model, tokens, size, place):
                note(kind, block_bytes, 0, seconds)
    found: dict[str, Any] = {kind: [] for kind in _KINDS}
    for (kind, one, other), seconds in timed.items():
        found[kind].append((one, other, seconds))
    return found


def prompt_points(prompt: int) -> list[tuple[int, int]]:
    """Tokens and held tokens that are timed: whole prompts, and what is left of them behind a cached part."""
    eighth = max(1, prompt // 8)
    parts = [(8, 0), (5, 0), (3, 0), (2, 0), (1, 0), (4, 4), (2, 6), (1, 7), (1, 4)]
    return list(dict.fromkeys((count * eighth, before * eighth) for count, before in parts))


def step_points(prompt: int, answer: int, batch: int) -> list[tuple[int, int]]:
    """Sequences and held tokens of the single tokens that are timed."""
    rows = sorted({1, max(1, batch // 2), batch})
    contexts = sorted({max(1, prompt // 4), max(1, prompt // 2), max(1, 3 * prompt // 4), prompt, prompt + answer})
    return [(count, context) for count in rows for context in contexts]


def _moves(model: LanguageModel, tokens: list[int], size: int, place: Place | None) -> list[tuple[str, float, int]]:
    """Seconds of one block of `size` tokens, kept and filled in as a run does it, with names and all.

    With a slower tier also written and read.
    """
    prompt = tokens * (1 + 4 * size // len(tokens))  # at least four blocks
    held, empty = KeyValues(model.shape, 1, len(prompt)), KeyValues(model.shape, 1, len(prompt))
    held.data.fill_(1.0)  # memory that is only promised costs nothing to read
    row, block_bytes = held.row(0), size * held.token_bytes
    cache = PrefixCache(PrefixIndex(eviction("lru", len(prompt) * held.token_bytes), block_bytes), size)
    names = block_names(prompt, size)

    took = {"keep": _seconds(lambda: cache.settle(names, row))}
    took["look"] = _seconds(lambda: cache.index.find(block_names(prompt, size)))
    found_all = cache.index.find(names)
    took["fill"] = _seconds(lambda: cache.fill(names, found_all, empty.row(0)))
    took["touch"] = _seconds(lambda: cache.settle(names, row))
    found = [(kind, seconds / len(names), block_bytes) for kind, seconds in took.items()]
    if place is None:
        return found
    folder, few = f"probe-{secrets.token_hex(6)}", [row[..., at * size : (at + 1) * size, :] for at in range(4)]
    try:
        digests: list[str] = []
        write_s = _seconds(lambda: digests.extend(write_file(place, folder, str(n), b) for n, b in enumerate(few)))
        read_s = _seconds(lambda: [read_file(place, folder, str(n), b, digests[n]) for n, b in enumerate(few)])
        found += [("write", write_s / len(few), block_bytes), ("read", read_s / len(few), block_bytes)]
    finally:
        for name in place.files(folder):
            place.remove(folder, name)
        place.remove_folder(folder)
    return found


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
