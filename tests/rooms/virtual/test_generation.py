"""The forecast of generation: formulas on arrays, break-even points, caches that win and lose."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.storage.cache import che_hit_share
from datahall.storage.eviction import POLICIES
from datahall.storage.plan import PrefixPlan
from datahall.storage.prefix import prefix_index, replay_prompts
from datahall.storage.prefix_estimate import break_even_fetch_bytes_per_s, break_even_hit_share, held_token_bytes
from datahall.virtual.generation import GenerationCosts, Line, next_token_s, play, prompt_s, result_of
from datahall.virtual.prefix_choice import Candidate, choose, plans_within, tier_break_even_bytes_per_s, turning

TOKEN_BYTES = 1024
COSTS = GenerationCosts(
    1e-3, 1e-4, 1e-8, 2e-3, 1e-4, 1e-8, Line(1e-6, 0.0), Line(5e-6, 1e-10), Line(8e-6, 1e-10), Line(1e-6, 0.0),
    Line(1e-4, 1e-9), Line(2e-3, 1e-9), 0.1, 0.1, 0.5,
)  # fmt: skip
POSITIVE = st.floats(1e-9, 1e3)
MANY = st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE), min_size=1, max_size=6)


@pytest.mark.parametrize("formula", [prompt_s, next_token_s])
@given(rows=MANY)
def test_seconds_of_arrays_are_those_of_their_elements(formula, rows):
    assert np.array_equal(formula(*np.array(rows).T), [float(formula(*row)) for row in rows])


@given(rows=MANY)
def test_break_even_points_of_arrays_are_those_of_their_elements(rows):
    three = np.array(rows).T[:3]
    for formula in (break_even_fetch_bytes_per_s, break_even_hit_share):
        assert np.array_equal(formula(*three), [float(formula(*row[:3])) for row in rows])


def test_at_the_break_even_points_both_ways_cost_the_same():
    rate = float(break_even_fetch_bytes_per_s(1e6, 0.02, 0.005))
    assert 1e6 / rate + 0.005 == pytest.approx(0.02)
    share = float(break_even_hit_share(0.02, 0.001, 0.003))
    assert share * (0.02 - 0.001) == pytest.approx((1 - share) * 0.003)
    assert math.isinf(break_even_fetch_bytes_per_s(1e6, 0.002, 0.005))
    assert math.isinf(break_even_hit_share(0.001, 0.002, 0.003))
    assert held_token_bytes(30, 3, 64, 4) == 2 * 30 * 3 * 64 * 4


def prompts(shared, count=40, own=32, seed=1):
    chance = random.Random(seed)
    begin = [chance.randrange(1000) for _ in range(shared)]
    return [[[*begin, *(chance.randrange(1000) for _ in range(own))]] for _ in range(count)]


def test_a_shared_beginning_wins_and_is_chosen():
    verdict = choose(COSTS, plans_within(1 << 20), prompts(128), 4, TOKEN_BYTES)
    assert verdict.pays
    assert verdict.plan.memory_bytes == 1 << 20
    assert verdict.played.counts["tokens_read"] == 40 * 160 - 39 * 128
    assert verdict.saved_s == pytest.approx(39 * 128 * 1e-4, rel=0.1)
    assert "saves" in verdict.sentence()
    assert len(verdict.considered) == len(POLICIES) * 3


def test_prompts_with_nothing_in_common_lose_and_it_is_left_out():
    apart = prompts(0, own=160)
    verdict = choose(COSTS, plans_within(1 << 16, 1 << 20), apart, 4, TOKEN_BYTES)
    assert verdict.plan == PrefixPlan()
    assert verdict.sentence().startswith("No cache")
    forced = choose(COSTS, [PrefixPlan(1 << 16, "lru", 16, 1 << 20)], apart, 4, TOKEN_BYTES, always=True)
    assert forced.saved_s < 0
    assert "Do not use it." in forced.sentence()
    assert forced.played.counts["hit_blocks"] == 0
    assert result_of(forced.played, forced.without, COSTS).metrics["saved"].high < 0


def test_a_tier_pays_above_its_break_even_rate_only():
    """More beginnings than memory holds: from the tier they come quicker than by reading again, or they do not."""
    batches = [batch for turn in range(6) for seed in range(8) for batch in prompts(256, 1, 16, seed)]
    plan = PrefixPlan(300 * TOKEN_BYTES, "lru", 16, 1 << 23)
    turn = turning(COSTS, plan, batches, TOKEN_BYTES)
    saved = {}
    for factor in (0.5, 2.0):
        read = Line(1e-4, 1 / (factor * turn.least_bytes_per_s))
        costs = replace(COSTS, read=read)
        without = play(costs, PrefixPlan(), batches, 2, TOKEN_BYTES)
        played = play(costs, plan, batches, 2, TOKEN_BYTES)
        assert played.counts["hit_blocks_of_the_tier"] > 0.7 * 48 * 16
        saved[factor] = without.prefill_s - played.prefill_s - played.fetching_s
    assert saved[0.5] < 0 < saved[2.0]
    assert "pays above" in turn.sentences(tier=True)[1]


def test_at_its_break_even_rate_over_all_the_tier_costs_what_it_spares():
    batches = [batch for turn in range(6) for seed in range(8) for batch in prompts(256, 1, 16, seed)]
    plan = PrefixPlan(300 * TOKEN_BYTES, "lru", 16, 1 << 23)
    alone = play(COSTS, replace(plan, tier_bytes=0), batches, 2, TOKEN_BYTES)
    quick = replace(COSTS, write=Line(1e-4, 1e-9))
    candidate = Candidate(plan, play(quick, plan, batches, 2, TOKEN_BYTES))
    rate = tier_break_even_bytes_per_s(candidate, alone, TOKEN_BYTES)
    for factor in (0.5, 1.0, 2.0):
        lines = {name: Line(1e-4, 1 / (factor * rate)) for name in ("read", "write")}
        played = play(replace(COSTS, **lines), plan, batches, 2, TOKEN_BYTES)
        expected = {0.5: 1, 1.0: 0, 2.0: -1}[factor]
        assert np.sign(round(played.total_s - alone.total_s, 9)) == expected
    slow = Candidate(plan, play(replace(COSTS, read=Line(1.0, 0.0)), plan, batches, 2, TOKEN_BYTES))
    assert math.isinf(tier_break_even_bytes_per_s(slow, alone, TOKEN_BYTES))


def test_che_and_the_replay_agree_on_prompts_asked_for_independently():
    """Prompts of one block each, asked for by fixed chances: an LRU prefix cache is the cache of Che's formula."""
    chance, weights = random.Random(3), [1 / (n + 1) for n in range(300)]
    asked = [[[n, *range(16)]] for n in chance.choices(range(300), weights, k=12_000)]
    index = prefix_index(PrefixPlan(60 * 16, "lru", 16), 1)
    visits = replay_prompts(index, asked, 16)
    share = sum(visit.found.blocks for batch in visits for visit in batch) / len(asked)
    assert share == pytest.approx(che_hit_share(weights, [16] * 300, 60 * 16), abs=0.015)
