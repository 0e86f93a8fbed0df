"""Whether prompts that begin alike are worth keeping, how, and where that turns: the plan, with reasons in words.

Costs come from outside (`GenerationCosts`); no model runs here, and no cache is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from datahall.base.units import human
from datahall.storage.eviction import POLICIES
from datahall.storage.plan import PrefixPlan
from datahall.storage.prefix_estimate import break_even_fetch_bytes_per_s, break_even_hit_share
from datahall.virtual.generation import Batches, GenerationCosts, Played, play

_WORTH_SHARE = 0.005  # of the whole: a cache that saves less is not worth its memory
BLOCKS = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan, and what it would do."""

    plan: PrefixPlan
    played: Played


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a block's choice turns, at the middle of a usual prompt.

    Seconds of computing a block again and of fetching it; the share of blocks, and tokens of a usual prompt, that must
    be found; the rates below which the tier loses: of a block that it has, and of all that it writes and gives back.
    """

    block_bytes: int
    compute_s: float
    memory_s: float
    tier_s: float
    tier_bytes_per_s: float
    least_bytes_per_s: float
    least_hit_share: float
    least_tokens: float
    least_of_all_bytes_per_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; what is infinite is null."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}

    def sentences(self, tier: bool) -> list[str]:
        """The break-even points as people read them."""
        share = (
            "never" if math.isinf(self.least_hit_share) else f"from {100 * self.least_hit_share:.1f} % of blocks found"
        )
        tokens = "" if math.isinf(self.least_tokens) else f" ({self.least_tokens:.1f} tokens of a usual prompt)"
        said = [
            f"A block of {human(self.block_bytes, 'bytes')} takes {human(self.compute_s, 'seconds')} to compute again"
            f" and {human(self.memory_s, 'seconds')} to take from memory: the cache pays {share}{tokens}."
        ]
        if tier:
            block, everything = _above(self.least_bytes_per_s), _above(self.least_of_all_bytes_per_s)
            said.append(
                f"From the slower tier it takes {human(self.tier_s, 'seconds')}, at"
                f" {human(self.tier_bytes_per_s, 'bytes_per_s')} besides the latency: a block that is there pays"
                f" {block}, the tier with all that it writes {everything}."
            )
        return said


@dataclass(frozen=True, slots=True)
class PrefixVerdict:
    """The plan that is used, what it does, what no cache does, and whether it pays."""

    plan: PrefixPlan
    played: Played
    without: Played
    turn: Turn
    considered: tuple[Candidate, ...]

    @property
    def saved_s(self) -> float:
        """Seconds that the plan saves; below zero it loses."""
        return self.without.total_s - self.played.total_s

    @property
    def pays(self) -> bool:
        """Whether that is worth it."""
        return self.saved_s > _WORTH_SHARE * self.without.total_s

    def sentence(self) -> str:
        """The verdict, before anything runs."""
        if not self.plan.memory_bytes:
            best = max((c for c in self.considered if c.plan.memory_bytes), key=_quickness, default=None)
            if best is None:
                return "No cache."
            saved = human(self.without.total_s - best.played.total_s, "seconds")
            return f"No cache: the best would save {saved} of {human(self.without.total_s, 'seconds')}."
        counts = self.played.counts
        spared = counts["prompt_tokens"] - counts["tokens_read"]
        word = "saves" if self.saved_s > 0 else "loses"
        advice = "" if self.pays else " Do not use it."
        return (
            f"A cache of {human(self.plan.memory_bytes, 'bytes')} ({self.plan.policy}, blocks of"
            f" {self.plan.block_tokens} tokens{self._tier()}) spares {spared:,} of"
            f" {counts['prompt_tokens']:,} tokens of prompts and {word} {human(abs(self.saved_s), 'seconds')} of"
            f" {human(self.without.total_s, 'seconds')}.{advice}"
        )

    def _tier(self) -> str:
        return f", {human(self.plan.tier_bytes, 'bytes')} in the slower tier" if self.plan.tier_bytes else ""


def choose(
    costs: GenerationCosts,
    plans: Sequence[PrefixPlan],
    batches: Batches,
    new_tokens: int,
    token_bytes: int,
    *,
    always: bool = False,
) -> PrefixVerdict:
    """The quickest of `plans`, or none where none is worth it (`always`: the quickest all the same)."""
    off = PrefixPlan()
    without = play(costs, off, batches, new_tokens, token_bytes)
    tried = [
        Candidate(plan, play(costs, plan, batches, new_tokens, token_bytes)) for plan in plans if plan.memory_bytes
    ]
    best = max(tried, key=_quickness, default=Candidate(off, without))
    turn = turning(costs, best.plan, batches, token_bytes)
    tiered = max((one for one in tried if one.plan.tier_bytes), key=_quickness, default=None)
    if tiered is not None:
        alone = play(costs, replace(tiered.plan, tier_bytes=0), batches, new_tokens, token_bytes)
        turn = replace(turn, least_of_all_bytes_per_s=tier_break_even_bytes_per_s(tiered, alone, token_bytes))
    verdict = PrefixVerdict(best.plan, best.played, without, turn, tuple(tried))
    if always or verdict.pays:
        return verdict
    return PrefixVerdict(off, without, without, turn, tuple(tried))


def plans_within(memory_bytes: int, tier_bytes: int = 0, policy: str = "", block_tokens: int = 0) -> list[PrefixPlan]:
    """The plans to choose among: policies and blocks unless they are given, with and without the slower tier."""
    policies, blocks = [policy] if policy else list(POLICIES), [block_tokens] if block_tokens else list(BLOCKS)
    tiers = [0, tier_bytes] if tier_bytes else [0]
    return [PrefixPlan(memory_bytes, p, b, t) for t in tiers for b in blocks for p in policies]


def tier_break_even_bytes_per_s(tiered: Candidate, alone: Played, token_bytes: int) -> float:
    """The rate, to and from, above which a plan's tier pays for all that it writes; `alone` does without it.

    Infinite where its latencies alone cost more than it spares, 0 where nothing moves.
    """
    played, block_bytes = tiered.played, tiered.plan.block_tokens * token_bytes
    moved = played.counts["hit_blocks_of_the_tier"] * block_bytes + played.counts["bytes_written_to_the_tier"]
    spared_s = alone.total_s - (played.total_s - played.tier_s)
    return math.inf if spared_s <= 0 < moved else moved / spared_s if moved else 0.0


def turning(costs: GenerationCosts, plan: PrefixPlan, batches: Batches, token_bytes: int) -> Turn:
    """Where the choice turns for a block of `plan`."""
    usual, block = fmean(len(prompt) for batch in batches for prompt in batch), plan.block_tokens
    size = block * token_bytes
    middle = usual / 2
    compute = float(costs.reading_s(block, middle)) - costs.prompt_fixed_s
    looked = costs.look.of(1, size)
    memory = costs.fill.of(1, size) + costs.touch.of(1, size)
    tier = memory + costs.read.of(1, size)
    keep = looked + costs.keep.of(1, size) + (costs.write.of(1, size) if plan.tier_bytes else 0.0)
    share = float(break_even_hit_share(compute, memory, keep))
    rate = 1.0 / costs.read.byte_s if costs.read.byte_s else math.inf
    least = float(break_even_fetch_bytes_per_s(size, compute, memory + costs.read.block_s))
    return Turn(size, compute, memory, tier, rate, least, share, share * usual)


def _above(bytes_per_s: float) -> str:
    return "at no rate" if math.isinf(bytes_per_s) else f"above {human(bytes_per_s, 'bytes_per_s')}"


def _quickness(candidate: Candidate) -> float:
    return -candidate.played.total_s
