"""Units: text becomes base units once; GB is not GiB, b is not B; what people read can be read back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.base import units
from datahall.base.errors import UsageError

DAY_S = 86400.0
KNOWN = [
    ("80 GiB", "bytes", 80 * 2**30),
    ("80 GB", "bytes", 80e9),
    ("400 Gb/s", "bytes_per_s", 50e9),
    ("400 GB/s", "bytes_per_s", 400e9),
    ("312 TFLOP/s", "flops_per_s", 312e12),
    ("4 Mi tokens", "tokens", 4 * 2**20),
    ("15e9", "tokens", 15e9),
    ("160.6 B", "tokens", 160.6e9),
    ("15T tokens", "tokens", 15e12),
    ("3 days", "seconds", 259200),
    ("5 ms", "seconds", 5e-3),
    ("5 %", "share", 0.05),
    ("2 kWh", "joules", 7.2e6),
    ("$100", "usd", None),
    ("100 USD", "usd", 100),
    ("1_000", "count", 1000),
    ("10 TB", "bytes", 1e13),
]


@pytest.mark.parametrize(("text", "dimension", "value"), KNOWN)
def test_known_texts(text: str, dimension: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(UsageError):
            units.parse(text, dimension)
    else:
        assert math.isclose(units.parse(text, dimension), value)


@given(st.floats(1e-3, 1e15), st.sampled_from(["bytes", "bytes_per_s", "flops_per_s", "watts", "joules"]))
def test_what_people_read_can_be_read_back(value: float, dimension: str) -> None:
    assert math.isclose(units.parse(units.human(value, dimension), dimension), value, rel_tol=5.1e-3)


@given(st.floats(1e-6, 2 * DAY_S))
def test_times_can_be_read_back(seconds: float) -> None:
    assert math.isclose(units.parse(units.human_time(seconds), "seconds"), seconds, rel_tol=6e-3)


@given(st.floats(2 * DAY_S, 1e9))
def test_days_can_be_read_back_to_a_tenth(seconds: float) -> None:
    again = units.parse(units.human_time(seconds).replace(",", ""), "seconds")
    assert math.isclose(again, seconds, abs_tol=0.051 * DAY_S)


@given(st.floats(0.001, 1e6), st.sampled_from(["", "k", "M", "G", "T"]))
def test_a_byte_is_eight_bits(number: float, prefix: str) -> None:
    assert math.isclose(
        units.parse(f"{number} {prefix}B/s", "bytes_per_s"), 8 * units.parse(f"{number} {prefix}b/s", "bytes_per_s")
    )


@given(st.integers(1, 10**6), st.sampled_from(["K", "M", "G", "T"]))
def test_binary_prefixes_are_larger(number: int, prefix: str) -> None:
    decimal = units.parse(f"{number} {prefix}B", "bytes")
    binary = units.parse(f"{number} {prefix}iB", "bytes")
    assert binary / decimal == pytest.approx(1.024 ** ("KMGT".index(prefix) + 1))


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("80 GiB/s", "bytes"),
        ("8 B/s", "tokens"),
        ("3 BB", "bytes"),
        ("fast", "bytes_per_s"),
        ("3 fortnights", "seconds"),
        (True, "count"),
        ("", "tokens"),
    ],
)
def test_what_is_no_quantity_is_refused_with_an_example(text: object, dimension: str) -> None:
    with pytest.raises(UsageError, match="Write it like"):
        units.parse(text, dimension)  # type: ignore[arg-type]


@given(st.text(max_size=20), st.sampled_from(["bytes", "bytes_per_s", "seconds", "share", "tokens", "count", "usd"]))
def test_any_text_is_a_number_or_a_usage_error(text: str, dimension: str) -> None:
    try:
        number = units.parse(text, dimension)
    except UsageError:
        return
    assert isinstance(number, float)
