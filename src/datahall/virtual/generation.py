"""Tokens from prompts, forecast: reading prompts, making tokens one by one, a cache of prompts that begin alike.

Hits are the replay of the very prompts through the very policies; seconds are a few constants of one model on one
machine (`calibrate.generation` fits them).  Batches follow one another; nothing arrives meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from datahall.base.formula import formula
from datahall.base.label import Label
from datahall.base.metric import Metric
from datahall.base.result import Result
from datahall.storage.plan import PrefixPlan
from datahall.storage.prefix import Found, Moves, PrefixIndex, Visit, prefix_index, replay_prompts

Batches = Sequence[Sequence[Sequence[int]]]  # prompts as token ids, batch by batch


@formula(
    equation="t = a + n b + n (s + (n + 1)/2) c",
    source="ours: products by token, attention by pairs of tokens; the terms of arXiv 2211.05102, section 2",
    holds="one prompt of n tokens behind s that are held; n and s inside the probed sizes",
)
def prompt_s(tokens: Any, held: Any, fixed_s: Any, token_s: Any, pair_s: Any) -> Any:
    """Seconds to read `tokens` of a prompt behind `held` ones."""
    count = np.asarray(tokens, dtype=float)
    return fixed_s + count * token_s + count * (held + (count + 1) / 2) * pair_s


@formula(
    equation="t = a + B b + B s c",
    source="ours: weights are read once for a batch, the cache for each sequence (arXiv 2211.05102, section 2)",
    holds="B sequences padded to s tokens; inside the probed sizes",
)
def next_token_s(batch: Any, held: Any, fixed_s: Any, row_s: Any, pair_s: Any) -> Any:
    """Seconds of one more token for each of `batch` sequences, the longest of which holds `held` tokens."""
    rows = np.asarray(batch, dtype=float)
    return fixed_s + rows * row_s + rows * held * pair_s


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of moving a block: so much each, and so much a byte."""

    block_s: float
    byte_s: float

    def of(self, blocks: float, block_bytes: float) -> float:
        """Seconds of so many blocks."""
        return blocks * (self.block_s + block_bytes * self.byte_s)


@dataclass(frozen=True, slots=True)
class GenerationCosts:
    """What one model's generation takes on one machine, in seconds.

    `prompt_*` and `step_*` are the constants of `prompt_s` and `next_token_s`.  Of a block, `look` names it and looks
    for it, `fill` and `keep` move it from and to memory, `touch` says that it was used, `read` and `write` move it from
    and to the slower tier.  `*_spread` is half the 90 % interval's width, a share.
    """

    prompt_fixed_s: float
    prompt_token_s: float
    prompt_pair_s: float
    step_fixed_s: float
    step_row_s: float
    step_pair_s: float
    look: Line
    fill: Line
    keep: Line
    touch: Line
    read: Line
    write: Line
    prompt_spread: float
    step_spread: float
    move_spread: float

    def to_json(self) -> dict[str, Any]:
        """The costs as plain JSON values."""
        return asdict(self)

    def reading_s(self, tokens: Any, held: Any) -> Any:
        """Seconds to read `tokens` behind `held` ones."""
        return prompt_s(tokens, held, self.prompt_fixed_s, self.prompt_token_s, self.prompt_pair_s)

    def step_s(self, batch: Any, held: Any) -> Any:
        """Seconds of one more token for each of `batch` sequences."""
        return next_token_s(batch, held, self.step_fixed_s, self.step_row_s, self.step_pair_s)


@dataclass(frozen=True, slots=True)
class Played:
    """What a plan does with the prompts: seconds in all by part, mean seconds to the first token, exact counts."""

    prefill_s: float
    fetching_s: float
    keeping_s: float
    decode_s: float
    first_token_s: float
    steps: int
    counts: dict[str, int]
    tier_s: float = 0.0  # of all this, for bytes that move to and from the slower tier (its latencies left out)

    @property
    def total_s(self) -> float:
        """Everything."""
        return self.prefill_s + self.fetching_s + self.keeping_s + self.decode_s


def play(costs: GenerationCosts, plan: PrefixPlan, batches: Batches, new_tokens: int, token_bytes: int) -> Played:
    """Replay `batches` through `plan`; each prompt gets `new_tokens` more."""
    index = prefix_index(plan, token_bytes)
    visits = replay_prompts(index, batches, plan.block_tokens) if plan.memory_bytes else _without(batches)
    prefill = fetching = keeping = first = decode = 0.0
    for group in visits:
        waited = 0.0
        for visit in group:
            held = visit.found.blocks * plan.block_tokens
            fetched = _fetched_s(costs, plan, visit, index.block_bytes)
            read = float(costs.reading_s(visit.tokens - held, held))
            waited += fetched + read
            prefill, fetching, first = prefill + read, fetching + fetched, first + waited
            keeping += costs.keep.of(len(visit.moves.keep), index.block_bytes)
            keeping += costs.touch.of(visit.found.near, index.block_bytes)
            keeping += costs.write.of(len(visit.moves.write), index.block_bytes)
        longest = max(visit.tokens for visit in group)
        decode += float(np.sum(costs.step_s(len(group), longest + 1 + np.arange(new_tokens - 1))))
    every = [visit for group in visits for visit in group]
    steps, counts = len(visits) * (new_tokens - 1), _counts(every, index, plan, token_bytes)
    read_bytes = counts["hit_blocks_of_the_tier"] * index.block_bytes
    tier = read_bytes * costs.read.byte_s + counts["bytes_written_to_the_tier"] * costs.write.byte_s
    return Played(prefill, fetching, keeping, decode, first / len(every), steps, counts, tier)


def result_of(played: Played, without: Played, costs: GenerationCosts, notes: tuple[str, ...] = ()) -> Result:
    """The forecast in the table that the measurement fills too; `without` is the same without a cache."""
    moved, spared = played.fetching_s + played.keeping_s, without.prefill_s - played.prefill_s
    margins = {
        "prefill": played.prefill_s * costs.prompt_spread,
        "fetching": played.fetching_s * costs.move_spread,
        "keeping": played.keeping_s * costs.move_spread,
        "decode": played.decode_s * costs.step_spread,
        "first_token": played.first_token_s * costs.prompt_spread,
        "token_time": played.decode_s / max(1, played.steps) * costs.step_spread,
        "saved": abs(spared) * costs.prompt_spread + moved * costs.move_spread,
    }
    margins["total_time"] = sum(margins[name] for name in ("prefill", "fetching", "keeping", "decode"))
    metrics = {
        name: Metric(name, "seconds", value, value - margins[name], value + margins[name], Label.CALIBRATED)
        for name, value in seconds_of(played, spared - moved).items()
    }
    return Result("virtual", MappingProxyType(metrics), MappingProxyType(played.counts), notes)


def seconds_of(played: Any, saved_s: float) -> dict[str, float]:
    """The metrics of a play, by name: `played` has the fields of `Played`, whichever world it comes from."""
    return {
        "prefill": played.prefill_s,
        "fetching": played.fetching_s,
        "keeping": played.keeping_s,
        "decode": played.decode_s,
        "total_time": played.total_s,
        "first_token": played.first_token_s,
        "token_time": played.decode_s / max(1, played.steps),
        "saved": saved_s,
    }


def _fetched_s(costs: GenerationCosts, plan: PrefixPlan, visit: Visit, block_bytes: int) -> float:
    if not plan.memory_bytes:
        return 0.0
    looked = costs.look.of((visit.tokens - 1) // plan.block_tokens, block_bytes)
    near, far = costs.fill.of(visit.found.blocks, block_bytes), costs.read.of(visit.found.far, block_bytes)
    return looked + near + far  # what comes from the tier is copied into its place too


def _without(batches: Batches) -> list[list[Visit]]:
    return [[Visit(len(prompt), Found(), Moves()) for prompt in batch] for batch in batches]


def _counts(visits: Sequence[Visit], index: PrefixIndex, plan: PrefixPlan, token_bytes: int) -> dict[str, int]:
    blocks = sum(visit.found.blocks for visit in visits)
    far = sum(visit.found.far for visit in visits)
    prompt_tokens = sum(visit.tokens for visit in visits)
    return {
        "prompt_tokens": prompt_tokens,
        "tokens_read": prompt_tokens - blocks * plan.block_tokens,
        "hit_blocks": blocks,
        "hit_blocks_of_the_tier": far,
        "bytes_a_token": token_bytes,
        "bytes_held": index.near.resident_bytes,
        "bytes_written_to_the_tier": index.block_bytes * sum(len(visit.moves.write) for visit in visits),
        "prompts_answered_alike": len(visits),
    }
