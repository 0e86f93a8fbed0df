"""What codecs hand over, as counts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.base.errors import UsageError
from datahall.network.algorithms import bytes_sent, schedule
from datahall.network.compress import Codec, calls, codec_of, handed_bytes, sent_bytes
from datahall.network.plan import NetworkPlan

shapes_of_buckets = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)


@given(shapes_of_buckets, st.integers(2, 16))
def test_plain_traffic_is_that_of_the_rings_sends(shapes: list[tuple[int, ...]], ranks: int) -> None:
    elements = sum(math.prod(shape) for shape in shapes)
    of_all = sum(bytes_sent(schedule("ring", ranks), elements))  # counted send by send
    assert sent_bytes(Codec(), shapes, ranks) == round(of_all / ranks)


@given(shapes_of_buckets)
def test_no_codec_hands_over_more_than_plain_but_for_small_tensors(shapes: list[tuple[int, ...]]) -> None:
    plain = handed_bytes(Codec(), shapes)
    assert handed_bytes(Codec("bf16"), shapes) * 2 == plain
    assert handed_bytes(Codec("powersgd"), shapes) <= plain
    assert handed_bytes(Codec("int8"), shapes) <= plain // 4 + 4 * math.ceil(plain / 4096)


def test_gathers_grow_with_the_ranks_and_reductions_do_not() -> None:
    shapes = [(1000, 1000)]
    assert sent_bytes(Codec("int8"), shapes, 9) == 8 * sent_bytes(Codec("int8"), shapes, 2)
    assert sent_bytes(Codec("bf16"), shapes, 9) < 2 * sent_bytes(Codec("bf16"), shapes, 2)
    assert sent_bytes(Codec("int8"), shapes, 9) > sent_bytes(Codec(), shapes, 9)


def test_powersgd_factors_large_matrices_only() -> None:
    assert [call.bytes for call in calls(Codec("powersgd", rank=2), [(100, 50), (7,), (3, 2)])] == [
        4 * (7 + 6 + 2 * 100),
        4 * 2 * 50,
    ]
    assert len(calls(Codec("powersgd"), [(7,)])) == 1


@pytest.mark.parametrize(
    "plan",
    [
        NetworkPlan(compression="zip"),
        NetworkPlan(compression="top-k", kept_share=0.0),
        NetworkPlan(compression="powersgd", compression_rank=0),
    ],
)
def test_nonsense_is_refused(plan: NetworkPlan) -> None:
    with pytest.raises(UsageError):
        codec_of(plan)
