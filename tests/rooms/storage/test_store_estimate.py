"""Forecasts of storage: element by element alike, right at the limits, and a codec only where it pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.storage import estimate
from datahall.storage.choice import CodecRate, Tier, options, pick_codec

amounts = st.floats(1e3, 1e13)
rates = st.floats(1e5, 1e12)
ratios = st.floats(0.9, 8.0)
counts = st.integers(1, 64)
shares = st.floats(0.0, 1.0)

CASES: list[tuple[Any, list[Any]]] = [
    (estimate.transfer_s, [amounts, counts, counts, rates, rates, st.floats(0, 10)]),
    (estimate.coded_s, [amounts, ratios, rates, counts, counts, rates, rates, st.floats(0, 10), shares]),
    (estimate.busy_threads, [counts, counts, counts]),
    (estimate.fixed_s, [shares, shares, counts, counts, counts]),
    (estimate.reshard_read_bytes, [amounts, amounts, amounts]),
    (estimate.reshard_s, [shares, amounts, rates]),
    (estimate.break_even_bytes_per_s, [ratios, rates, shares]),
    (estimate.pipeline_share, [amounts, counts]),
    (estimate.stall_s, [amounts, rates, st.floats(0, 9), st.floats(0, 1)]),
    (estimate.slowed_s, [st.floats(0, 9), counts, counts, counts]),
    (estimate.input_wait_s, [shares, shares, st.booleans()]),
    (estimate.cache_gain_s, [amounts, shares, st.floats(0, 9), st.floats(0, 9), st.floats(0, 1), st.floats(0, 1)]),
]


@pytest.mark.parametrize(("function", "inputs"), CASES, ids=[case[0].__name__ for case in CASES])
def test_an_element_of_the_array_answer_is_the_scalar_answer(function: Any, inputs: list[Any]) -> None:
    @settings(deadline=None)
    @given(st.lists(st.tuples(*inputs), min_size=1, max_size=5))
    def check(rows: list[tuple[Any, ...]]) -> None:
        together = function(*(np.array(column) for column in zip(*rows, strict=True)))
        for row, value in zip(rows, np.atleast_1d(together), strict=True):
            assert float(function(*row)) == pytest.approx(float(value), rel=1e-12, abs=0)

    check()


def test_a_background_save_holds_the_loop_for_what_the_step_does_not_hide_and_slows_it_where_no_core_is_free() -> None:
    assert estimate.stall_s(8e9, 4e9, np.array([0.0, 1.5, 3.0]), 0.25).tolist() == [2.25, 0.75, 0.25]
    assert estimate.slowed_s(3.0, 1, np.array([1, 2, 3]), 2).tolist() == [0.0, 1.5, 1.5]
    assert estimate.slowed_s(3.0, 2, 1, 2) == 3.0  # both ranks' work, on both cores, which both are busy
    assert estimate.slowed_s(3.0, 4, 1, np.inf) == 0.0


def test_stripes_add_up_until_the_tier_is_full() -> None:
    one = estimate.transfer_s(8e9, 1, 1, 1e9, 4e9, 0.5)
    four = estimate.transfer_s(8e9, 4, 1, 1e9, 4e9, 0.5)
    eight = estimate.transfer_s(8e9, 8, 1, 1e9, 4e9, 0.5)
    assert (one, four, eight) == (8.5, 2.5, 2.5)
    assert estimate.transfer_s(8e9, 8, 4, 1e9, 4e9, 0.5) == 8.5  # four clients share the tier


@settings(deadline=None)
@given(ratio=st.floats(1.05, 8.0), rate=rates, overlap=st.floats(0.0, 1.0))
def test_at_the_break_even_bandwidth_a_codec_takes_as_long_as_none(ratio: float, rate: float, overlap: float) -> None:
    even = float(estimate.break_even_bytes_per_s(ratio, rate, overlap))
    raw = 1e15  # so many chunks that the pipeline's start does not count

    def coded(bandwidth: float) -> float:
        return float(estimate.coded_s(raw, ratio, rate, 1, 1, np.inf, bandwidth, 0.0, overlap))

    if overlap > 0.01:
        assert coded(even) == pytest.approx(raw / even, rel=1e-6)
    assert coded(0.9 * even) <= raw / (0.9 * even) * (1 + 1e-9)
    assert coded(1.1 * even) >= raw / (1.1 * even) * (1 - 1e-9)


def test_a_codec_is_picked_on_a_slow_tier_and_none_on_a_fast_one() -> None:
    found = [CodecRate("none", 1.0, 5e9, 5e9), CodecRate("planes", 1.46, 5e8, 1.3e9), CodecRate("gzip", 1.26, 2e7, 3e8)]
    assert pick_codec(2e9, found, Tier(1e8, 1e8)).codec == "planes"
    assert pick_codec(2e9, found, Tier(2e9, 2e9)).codec == "none"
    assert options(2e9, found, Tier(4e8, 4e8), reads_per_write=0)[0].codec == "planes"
    assert pick_codec(2e9, found, Tier(4e8, 4e8), reads_per_write=0).codec == "none"  # a gain in the noise is no gain
    slow = options(2e9, found, Tier(1e6, 1e6))
    assert [option.codec for option in slow] == ["planes", "gzip", "none"]
    assert pick_codec(2e9, found, Tier(1e8, 1e8), reads_per_write=0).break_even_bytes_per_s < 5e8
