"""All-reduce schedules as values: right sums, bytes of the theory, rounds of the theory."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.base.errors import UsageError
from datahall.network import algorithms
from datahall.network.algorithms import bytes_sent, chunk_bounds, interpret, messages, schedule

NAMES = ("ring", "tree", "doubling", "halving-doubling", "hierarchical")


def build(name: str, ranks: int, per_host: int = 1) -> algorithms.Schedule:
    return schedule(name, ranks, per_host)


@given(st.sampled_from(NAMES), st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_every_rank_ends_with_the_sum(name: str, hosts: int, per_host: int, seed: int) -> None:
    plan = build(name, hosts * per_host, per_host)
    draw = random.Random(seed)
    held = [[draw.randrange(1000) for _ in range(plan.chunks)] for _ in range(plan.ranks)]
    total = [sum(held[rank][chunk] for rank in range(plan.ranks)) for chunk in range(plan.chunks)]
    assert interpret(plan, held) == [total] * plan.ranks


@given(st.sampled_from(NAMES), st.integers(2, 12))
def test_a_schedule_without_one_send_is_wrong(name: str, ranks: int) -> None:
    plan = build(name, ranks)
    broken = algorithms.Schedule(plan.name, plan.ranks, plan.chunks, plan.sends[:-1])
    held = [[2**rank for _ in range(plan.chunks)] for rank in range(ranks)]
    assert interpret(broken, held) != interpret(plan, held)


@given(st.integers(2, 16), st.integers(1, 50))
def test_ring_bytes_are_those_of_the_theory(ranks: int, per_chunk: int) -> None:
    elements = ranks * per_chunk
    assert bytes_sent(build("ring", ranks), elements) == [2 * (ranks - 1) * elements * 4 // ranks] * ranks


@given(st.integers(1, 5), st.integers(1, 9))
def test_halving_doubling_moves_the_rings_bytes_in_fewer_rounds(power: int, per_chunk: int) -> None:
    ranks = 2**power
    plan = build("halving-doubling", ranks)
    assert bytes_sent(plan, ranks * per_chunk) == bytes_sent(build("ring", ranks), ranks * per_chunk)
    assert plan.steps == 2 * power


@given(st.sampled_from(["ring", "tree"]), st.integers(2, 16), st.integers(0, 1000))
def test_all_ranks_together_move_2_n_minus_1_payloads(name: str, ranks: int, elements: int) -> None:
    assert sum(bytes_sent(build(name, ranks), elements, 1)) == 2 * (ranks - 1) * elements


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8, 13])
def test_rounds(ranks: int) -> None:
    assert build("ring", ranks).steps == 2 * (ranks - 1)
    assert build("tree", ranks).steps == 2 * math.ceil(math.log2(ranks))


def test_hierarchical_sends_less_between_hosts_than_a_ring_with_the_hosts_interleaved() -> None:
    plan, elements = build("hierarchical", 8, 4), 8 * 100
    size = elements // plan.chunks
    between = sum(size for send in plan.sends if send.source // 4 != send.target // 4)
    assert between == 2 * (2 - 1) * elements  # a ring between two hosts: 2(h-1) payloads in all
    inside = sum(size for send in plan.sends if send.source // 4 == send.target // 4)
    assert inside == 2 * 2 * (4 - 1) * elements


@given(st.sampled_from(NAMES), st.integers(1, 16))
def test_messages_carry_exactly_the_sends(name: str, ranks: int) -> None:
    plan = build(name, ranks)
    carried = [(m.step, m.source, m.target, chunk) for m in messages(plan) for chunk in range(m.first, m.last + 1)]
    assert sorted(carried) == sorted((s.step, s.source, s.target, s.chunk) for s in plan.sends)


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_chunks_cover_the_payload_nearly_evenly(elements: int, chunks: int) -> None:
    bounds = chunk_bounds(elements, chunks)
    sizes = [b - a for a, b in itertools.pairwise(bounds)]
    assert (bounds[0], bounds[-1]) == (0, elements)
    assert max(sizes) - min(sizes) <= 1


def test_unknown_names_and_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="no all-reduce algorithm"):
        build("star", 4)
    with pytest.raises(UsageError, match="whole number of hosts"):
        build("hierarchical", 5, 2)
    with pytest.raises(UsageError, match="at least one rank"):
        build("ring", 0)
