"""Tokens for batches of prompts, with a prefix cache or without, each part timed where it happens.

Carries a `PrefixPlan` out; the forecast of the same is `virtual.generation`'s.  What was read is counted where the
model takes tokens in, and what is held tensor by tensor: neither asks the cache.  In this process; no server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from datahall.storage.execute_prefix import PrefixCache
from datahall.storage.place import Place
from datahall.storage.plan import PrefixPlan
from datahall.storage.prefix import block_names, prefix_index
from datahall.workloads.decoding import KeyValues, next_tokens, read_prompt
from datahall.workloads.language_model import LanguageModel


@dataclass(slots=True)
class Generated:
    """What was made and what it took: seconds in all by part, of each prompt to its first token, and counts."""

    answers: list[list[int]] = field(default_factory=list[list[int]])
    prefill_s: float = 0.0
    fetching_s: float = 0.0
    keeping_s: float = 0.0
    decode_s: float = 0.0
    first_tokens_s: list[float] = field(default_factory=list[float])
    steps: int = 0
    prompt_tokens: int = 0
    tokens_read: int = 0  # that the model took in while it read prompts
    token_bytes: int = 0

    @property
    def total_s(self) -> float:
        """Everything."""
        return self.prefill_s + self.fetching_s + self.keeping_s + self.decode_s

    @property
    def first_token_s(self) -> float:
        """Mean seconds from the beginning of a batch to the first token of a prompt in it."""
        return sum(self.first_tokens_s) / max(1, len(self.first_tokens_s))


class Generator:
    """Makes tokens batch by batch; the cache lives as long as the generator.  `place` is the slower tier."""

    def __init__(self, model: LanguageModel, plan: PrefixPlan | None = None, place: Place | None = None) -> None:
        self.model, self.plan, self.done = model, plan or PrefixPlan(), Generated()
        self.done.token_bytes = KeyValues(model.shape, 1, 1).token_bytes
        self.cache: PrefixCache | None = None
        if self.plan.memory_bytes:
            index = prefix_index(self.plan, self.done.token_bytes)
            self.cache = PrefixCache(index, self.plan.block_tokens, place)

    def batch(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """`new_tokens` for each of these prompts, greedily; added to `done`."""
        held = KeyValues(self.model.shape, len(prompts), max(map(len, prompts)) + new_tokens)
        names: list[list[str]] = []
        with _tokens_taken_in(self.model) as taken:
            logits = self._read(prompts, names, held)
        self.done.tokens_read += sum(taken)
        self.done.prompt_tokens += sum(map(len, prompts))
        if self.cache is not None:
            began = time.perf_counter()
            for row, named in enumerate(names):
                self.cache.settle(named, held.row(row))
            self.done.keeping_s += time.perf_counter() - began
        answers = self._decode(logits, held, new_tokens)
        self.done.answers += answers
        return answers

    def close(self) -> None:
        """Let the cache go, and what it wrote."""
        if self.cache is not None:
            self.cache.close()

    def _read(self, prompts: Sequence[Sequence[int]], names: list[list[str]], held: KeyValues) -> torch.Tensor:
        """Logits after each prompt; with a cache, `names` gets those of its blocks."""
        began = at = time.perf_counter()
        if self.cache is not None:
            names += [block_names(prompt, self.plan.block_tokens) for prompt in prompts]
        found = [self.cache.index.find(named) for named in names] if self.cache else []
        logits: list[torch.Tensor] = []
        for row, prompt in enumerate(prompts):
            if self.cache is not None:
                held.lengths[row] = self.cache.fill(names[row], found[row], held.row(row))
            filled = time.perf_counter()
            logits.append(read_prompt(self.model, prompt[held.lengths[row] :], held, row))
            read = time.perf_counter()
            self.done.fetching_s += filled - at
            self.done.prefill_s += read - filled
            self.done.first_tokens_s.append(read - began)
            at = read
        return torch.stack(logits)

    def _decode(self, logits: torch.Tensor, held: KeyValues, new_tokens: int) -> list[list[int]]:
        began = time.perf_counter()
        made = [logits.argmax(-1).tolist()]
        for _ in range(new_tokens - 1):
            made.append(next_tokens(self.model, made[-1], held).argmax(-1).tolist())
        self.done.decode_s += time.perf_counter() - began
        self.done.steps += new_tokens - 1
        return [list(answer) for answer in zip(*made, strict=True)]


def counts_of(done: Generated, cache: PrefixCache | None, alike: int) -> dict[str, int]:
    """The counts of `virtual.generation`, as they were observed; `alike` prompts had the answer of a plain run."""
    block = cache.block_tokens if cache else 1
    return {
        "prompt_tokens": done.prompt_tokens,
        "tokens_read": done.tokens_read,
        "hit_blocks": (done.prompt_tokens - done.tokens_read) // block,
        "hit_blocks_of_the_tier": cache.far_hits if cache else 0,
        "bytes_a_token": done.token_bytes,
        "bytes_held": cache.held_bytes if cache else 0,
        "bytes_written_to_the_tier": cache.written_bytes if cache else 0,
        "prompts_answered_alike": alike,
    }


@contextmanager
def _tokens_taken_in(model: LanguageModel) -> Iterator[list[int]]:
    """How many tokens each call of the model's embedding was given, meanwhile."""
    taken: list[int] = []
    hook = model.embedding.register_forward_pre_hook(lambda _, given: taken.append(given[0].numel()))
    try:
        yield taken
    finally:
        hook.remove()
