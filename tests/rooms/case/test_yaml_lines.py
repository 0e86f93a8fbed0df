"""YAML 1.2: numbers with exponents are numbers, `no` and `on` are words, and each value knows its line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.base.errors import CaseError
from datahall.case import lines

WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15e9", 15e9),
        ("1e-3", 1e-3),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("010", 10),
        ("0x10", 16),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("~", None),
        ("4 Mi tokens", "4 Mi tokens"),
    ],
)
def test_scalars_under_1_2(text: str, value: object) -> None:
    found = lines.parse(f"key: {text}\n").data["key"]
    if text == "1_000":
        assert found in (1000, "1_000")
        return
    assert found == value
    assert type(found) is type(value)


@given(mantissa=st.integers(1, 10**6), exponent=st.integers(-12, 18))
def test_exponents_are_numbers(mantissa: int, exponent: int) -> None:
    found = lines.parse(f"key: {mantissa}e{exponent}\n").data["key"]
    assert isinstance(found, float)
    assert math.isclose(found, mantissa * 10.0**exponent, rel_tol=1e-12)


@given(st.dictionaries(WORDS, st.integers(-(10**9), 10**9), min_size=1, max_size=6), st.integers(0, 4))
def test_values_and_lines_come_back(data: dict[str, int], blank: int) -> None:
    text = "\n" * blank + "".join(f'"{key}": {value}\n' for key, value in data.items())
    document = lines.parse(text, "x.yaml")
    assert document.data == data
    for index, key in enumerate(data):
        assert document.where((key, "inner")) == f"x.yaml:{blank + index + 1}"


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = lines.parse(text, "x.yaml")
    except CaseError:
        return
    assert isinstance(document.data, dict)
    assert document.lines


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: !!python/object:os.system x", "a: !mine 3", "? [1]\n: 2", "a: *b"])
def test_what_is_not_a_case_is_refused(text: str) -> None:
    with pytest.raises(CaseError):
        lines.parse(text)
