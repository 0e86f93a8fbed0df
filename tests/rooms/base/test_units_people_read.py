"""Quantities as people read them: three digits, one unit in an interval, energy as on a bill."""

from datahall.base.units import human, human_count, human_interval, human_time


def test_three_digits_and_no_more() -> None:
    assert human(153.12 * 2**30, "bytes") == "153 GiB"
    assert human(1023 * 2**30, "bytes") == "1020 GiB"
    assert human(259172.0, "tokens_per_s") == "259,000 tokens/s"
    assert human(27431.0, "usd") == "$27,400"
    assert human(12.345, "usd") == "$12.35"


def test_energy_reads_in_joules_when_small_and_in_watt_hours_when_large() -> None:
    assert human(1200.0, "joules") == "1.2 kJ"
    assert human(3.6e6, "joules") == "1 kWh"
    assert human(511e6 * 3600.0, "joules") == "511 MWh"


def test_an_interval_says_its_unit_once_if_both_ends_have_it() -> None:
    assert human_interval(2.51, 6.53, "seconds") == "2.51 to 6.53 s"
    assert human_interval(0.9, 1.2, "seconds") == "900 ms to 1.2 s"
    assert human_interval(1.46e6, 6.8e6, "joules") == "406 Wh to 1.89 kWh"
    assert human_interval(10.0, 20.0, "usd") == "$10.00 to $20.00"


def test_counts_read_as_the_field_writes_them() -> None:
    assert [human_count(n) for n in (8.03e9, 1.4e12, 124e6, 999.0)] == ["8.03 B", "1.4 T", "124 M", "999"]


def test_what_rounds_to_a_thousand_is_written_in_the_next_unit() -> None:
    assert human_time(0.9996) == "1 s"
    assert human_time(0.00099961) == "1 ms"
    assert human_time(0.9994) == "999 ms"
    assert human(867, "bits_per_s") == "867 b/s"
