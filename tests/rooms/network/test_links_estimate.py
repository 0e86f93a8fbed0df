"""Prices of schedules and messages: theory, arrays equal to scalars."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.network.algorithms import bytes_sent, schedule
from datahall.network.links_estimate import (
    LinkConstants,
    all_reduce_s,
    load,
    schedule_s,
    smallest_rate_bits_per_s,
    transfer_s,
    wire_bytes,
)

ONE_LINK = LinkConstants(0.0, 1e-3, 0.0, float("inf"), 1e9, float("inf"))
positive = st.floats(1e-6, 1e9, allow_nan=False)


@given(st.integers(2, 16), st.integers(1, 1000))
def test_a_ring_between_hosts_takes_the_time_of_the_theory(ranks: int, per_chunk: int) -> None:
    elements = ranks * per_chunk
    seconds = schedule_s(load(schedule("ring", ranks), elements, range(ranks)), ONE_LINK)
    assert seconds == pytest.approx(2 * (ranks - 1) * (1e-3 + elements * 4 / ranks / 1e9))


def test_the_crossover_of_doubling_and_ring_is_where_the_theory_puts_it() -> None:
    # 4 ranks: 2 rounds of S against 6 rounds of S / 4: equal where 4 latencies equal S / 2 over the link.
    crossover = 8 * 1e-3 * 1e9 / 4
    for factor, winner in ((0.9, "doubling"), (1.1, "ring")):
        elements = int(crossover * factor)
        price = {
            name: schedule_s(load(schedule(name, 4), elements, range(4)), ONE_LINK) for name in ("ring", "doubling")
        }
        assert min(price, key=lambda name: price[name]) == winner


def test_hierarchical_beats_the_ring_when_ranks_are_dealt_over_hosts() -> None:
    slow = LinkConstants(1e-5, 1e-2, 0.0, 1e10, 1e7, float("inf"))
    dealt = [0, 1, 0, 1, 0, 1, 0, 1]
    grouped = [0, 0, 0, 0, 1, 1, 1, 1]
    ring = schedule_s(load(schedule("ring", 8), 10**6, dealt), slow)
    nested = schedule_s(load(schedule("hierarchical", 8, 4), 10**6, grouped), slow)
    assert nested < ring / 3


@given(st.integers(2, 8), st.integers(1, 500))
def test_ranks_of_one_host_share_its_cores(ranks: int, elements: int) -> None:
    counts = load(schedule("ring", ranks), elements, [0] * ranks)
    assert counts.moved_bytes == sum(bytes_sent(schedule("ring", ranks), elements))
    assert counts.between_bytes == counts.between_rounds == 0


@given(st.lists(st.lists(positive, min_size=12, max_size=12), min_size=1, max_size=5))
def test_all_reduce_of_arrays_is_that_of_their_elements(rows: list[list[float]]) -> None:
    columns = np.array(rows).T
    together = np.asarray(all_reduce_s(*columns))
    assert together.tolist() == [all_reduce_s(*row) for row in rows]


@given(st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=5))
def test_transfer_wire_and_rate_of_arrays_are_those_of_their_elements(rows: list[tuple[float, float, float]]) -> None:
    columns = np.array(rows).T
    for function in (transfer_s, wire_bytes, smallest_rate_bits_per_s):
        assert np.asarray(function(*columns)).tolist() == [function(*row) for row in rows]


def test_bits_are_not_bytes() -> None:
    assert transfer_s(1e6, 1e6, 0.5) == 8.5
    assert smallest_rate_bits_per_s(1e6, 1.0, 0.5) == 16e6
    assert smallest_rate_bits_per_s(1e6, 0.1, 0.5) == float("inf")


def test_headers_of_a_long_one_way_transfer() -> None:
    assert wire_bytes(1448e3, 0.0, 0) == 1448e3 + 66e3
    assert wire_bytes(0.0, 1448e3, 0) == 33e3  # every second segment is answered
