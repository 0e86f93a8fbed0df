"""Which exchange pays: order, break-even, arrays equal to scalars."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from datahall.network.choose import Candidate, LinkModel, coding_s, options, step_s
from datahall.network.plan import NetworkPlan

SHAPES = [(768, 512), (768, 768), (256, 768)]
CANDIDATES = [
    Candidate("plain", NetworkPlan()),
    Candidate("bf16", NetworkPlan(compression="bf16"), 1.0, 0.002),
    Candidate("int8", NetworkPlan(compression="int8"), 1.05, 0.01),
    Candidate("powersgd", NetworkPlan(compression="powersgd"), 1.3, 0.02),
    Candidate("local SGD", NetworkPlan(local_steps=16), 1.4, 0.001),
]


def chosen(bits_per_s: float, round_trip_s: float = 0.0, compute_s: float = 0.02) -> list[str]:
    made = options(SHAPES, 2, LinkModel(bits_per_s, round_trip_s), compute_s, CANDIDATES)
    return [option.candidate.name for option in made]


def test_a_fast_link_is_left_alone_and_a_slow_one_is_not() -> None:
    assert chosen(400e9)[0] == "plain"
    assert chosen(20e6, 0.05)[0] == "local SGD"


@given(st.sampled_from(CANDIDATES[1:]), st.floats(1e-4, 1.0))
def test_at_its_break_even_a_candidate_equals_plain(candidate: Candidate, compute_s: float) -> None:
    both = [CANDIDATES[0], candidate]
    by_name = {o.candidate.name: o for o in options(SHAPES, 2, LinkModel(1e8, 0.001), compute_s, both)}
    rate = by_name[candidate.name].break_even_bits_per_s
    assume(0 < rate < float("inf"))
    for factor, faster in ((0.5, True), (2.0, False)):
        made = options(SHAPES, 2, LinkModel(rate * factor, 0.001), compute_s, both)
        assert (made[0].candidate.name == candidate.name) == faster
    equal = options(SHAPES, 2, LinkModel(rate, 0.001), compute_s, both)
    assert equal[0].equal_loss_s == pytest.approx(equal[1].equal_loss_s)


def test_plain_on_a_slow_link_takes_the_bytes_over_the_rate() -> None:
    option = options(SHAPES, 2, LinkModel(20e6, 0.05), 0.02, CANDIDATES[:1])[0]
    payload = 4 * (768 * 512 + 768 * 768 + 256 * 768)
    assert option.handed_bytes == payload
    assert option.step_s == pytest.approx(0.02 + 2 * 0.05 + 8 * option.wire_bytes / 20e6)
    assert 1.05 < option.wire_bytes / payload < 1.08


@given(st.lists(st.lists(st.floats(1e-3, 1e6), min_size=7, max_size=7), min_size=1, max_size=4))
def test_steps_of_arrays_are_those_of_their_elements(rows: list[list[float]]) -> None:
    assert np.asarray(step_s(*np.array(rows).T)).tolist() == [step_s(*row) for row in rows]


def test_an_accelerator_codes_at_the_rate_of_its_memory_and_a_gather_costs_more_with_more_ranks() -> None:
    cast, gathered = NetworkPlan(compression="bf16"), NetworkPlan(compression="int8")
    assert coding_s(cast, 10**9, 64, 2e12) == coding_s(cast, 10**9, 8, 2e12)
    assert coding_s(gathered, 10**9, 64, 2e12) > 4 * coding_s(gathered, 10**9, 8, 2e12)
    assert coding_s(cast, 10**9) > 100 * coding_s(cast, 10**9, 8, 2e12)  # one core
