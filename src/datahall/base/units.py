"""Text such as "80 GiB" or "400 Gb/s" becomes a number in base units, once, at the door; and back for people.

Base units: bytes, seconds, FLOP/s, bytes/s, watts, joules, USD, tokens.  GB is 10^9 bytes and GiB is 2^30; a lower-case
b is a bit, an upper-case B a byte.  There is no other unit arithmetic here: inside datahall the unit is in the name.
"""

from __future__ import annotations

import re
from typing import Final

from datahall.base.errors import UsageError

_SI: Final = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_PREFIXES: Final = {**_SI, **_BINARY, "B": 1e9}
_KWH_J: Final = 3.6e6  # from here on energy reads in watt hours, as a bill does

_NUMBER = r"(?P<number>[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_PREFIX = r"(?P<prefix>[KMGTP]i|[kKMGTPE])?"
_COUNTED = {"tokens", "count"}  # whose billions are a B, as `human_count` writes them
_COUNTED_PREFIX = r"(?P<prefix>[KMGTP]i|[kKMGTPEB])?"

_TIMES: Final = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0, "week": 604800.0, "weeks": 604800.0,
    "year": 31557600.0, "years": 31557600.0,
}  # fmt: skip

_DIMENSIONS: Final[dict[str, tuple[str, dict[str, float]]]] = {
    # dimension: (what follows number and prefix, factor of each spelling to the base unit)
    "bytes": (
        r"(?P<unit>B|bytes|byte|b|bits|bit)",
        {"B": 1, "bytes": 1, "byte": 1, "b": 0.125, "bits": 0.125, "bit": 0.125},
    ),
    "bytes_per_s": (
        r"(?P<unit>B/s|Bps|b/s|bps|bit/s)",
        {"B/s": 1, "Bps": 1, "b/s": 0.125, "bps": 0.125, "bit/s": 0.125},
    ),
    "flops": (r"(?P<unit>FLOPs|FLOP)", {"FLOPs": 1, "FLOP": 1}),
    "flops_per_s": (r"(?P<unit>FLOP/s|FLOPS|flops)", {"FLOP/s": 1, "FLOPS": 1, "flops": 1}),
    "tokens": (r"(?P<unit>tokens|token)?", {"": 1, "tokens": 1, "token": 1}),
    "count": (r"(?P<unit>)", {"": 1}),
    "watts": (r"(?P<unit>W)", {"W": 1}),
    "joules": (r"(?P<unit>J|Wh)", {"J": 1, "Wh": 3600}),
    "usd": (r"(?P<unit>USD|\$)?", {"": 1, "USD": 1, "$": 1}),
}  # fmt: skip

_EXAMPLES: Final = {
    "bytes": "80 GiB", "bytes_per_s": "400 Gb/s", "flops": "1e21 FLOP", "flops_per_s": "312 TFLOP/s",
    "tokens": "4 Mi tokens", "count": "16", "watts": "400 W", "joules": "1 kJ", "usd": "100 USD",
    "seconds": "3 days", "share": "5 %",
}  # fmt: skip


def parse(text: str | int | float, dimension: str) -> float:
    """`text` as a number in the base unit of `dimension`.

    A bare number is taken to be in the base unit already.  Dimensions: bytes, bytes_per_s, flops, flops_per_s,
    tokens, count, watts, joules, usd, seconds, share (0 to 1).  Raises UsageError with an example when it cannot.
    """
    if isinstance(text, bool):
        raise _unreadable(text, dimension)
    if isinstance(text, int | float):
        return float(text)
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - files hold anything
        raise _unreadable(text, dimension)
    if dimension == "seconds":
        return _parse_time(text)
    if dimension == "share":
        return _parse_share(text)
    unit_pattern, factors = _DIMENSIONS[dimension]
    prefixes = _COUNTED_PREFIX if dimension in _COUNTED else _PREFIX
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(?:{prefixes}\s*{unit_pattern})?\s*", text)
    if match is None:
        raise _unreadable(text, dimension)
    prefix, unit = match["prefix"] or "", match["unit"] or ""
    if unit not in factors and (prefix or unit):
        raise _unreadable(text, dimension)
    return float(match["number"].replace("_", "")) * _PREFIXES[prefix] * factors.get(unit, 1)


def human(value: float, dimension: str) -> str:
    """`value` in base units as people write it, with three digits: "80 GiB", "50 GB/s", "3.2 h", "12 kWh"."""
    if dimension == "seconds":
        return human_time(value)
    if dimension == "tokens_per_s":
        return f"{_three_digits(value)} tokens/s"
    if dimension == "joules" and abs(value) >= _KWH_J:
        return _watt_hours(value)
    if dimension == "bytes":
        return _scaled(value, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
    if dimension == "share":
        return f"{100 * value:.1f} %"
    if dimension == "usd":
        return f"${value:.2f}" if 0.1 <= abs(value) < 1000 or not value else f"${_three_digits(value)}"
    names = {"bytes_per_s": "B/s", "bits_per_s": "b/s", "flops_per_s": "FLOP/s", "flops": "FLOP"}
    suffix = {**names, "watts": "W", "joules": "J"}.get(dimension, "")
    return _scaled(value, 1000.0, [p + suffix for p in ("", "k", "M", "G", "T", "P", "E")])


def human_time(seconds: float) -> str:
    """Seconds as people write them, with three significant digits."""
    for limit, factor, unit in (
        (1e-3, 1e6, "µs"),
        (1.0, 1e3, "ms"),
        (120.0, 1.0, "s"),
        (7200.0, 1 / 60, "min"),
        (172800.0, 1 / 3600, "h"),
    ):
        if abs(seconds) < limit * (1.0 - 5e-4):  # what rounds to the limit is written in the next unit
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 86400:,.1f} days"


def human_interval(low: float, high: float, dimension: str) -> str:
    """`low` to `high` as people write it, the unit said once where both have it: "2.51 to 6.53 s"."""
    first, last = human(low, dimension), human(high, dimension)
    if dimension == "joules" and high >= _KWH_J:
        first = _watt_hours(low)
    number, _, unit = first.partition(" ")
    return f"{number} to {last}" if unit and last.endswith(f" {unit}") else f"{first} to {last}"


def human_count(number: float) -> str:
    """A number of tokens or parameters in millions (M), billions (B) or trillions (T), as the field counts them."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.4g} {letter}"
    return f"{number:,.0f}"


def _parse_time(text: str) -> float:
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(?P<unit>[a-zµ]*)\s*", text)
    if match is None or (match["unit"] and match["unit"] not in _TIMES):
        raise _unreadable(text, "seconds")
    return float(match["number"].replace("_", "")) * _TIMES.get(match["unit"], 1.0)


def _parse_share(text: str) -> float:
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(?P<percent>%)?\s*", text)
    if match is None:
        raise _unreadable(text, "share")
    return float(match["number"]) / (100.0 if match["percent"] else 1.0)


def _watt_hours(joules: float) -> str:
    return _scaled(joules / 3600.0, 1000.0, [prefix + "Wh" for prefix in _SI if prefix != "K"])


def _scaled(value: float, step: float, names: list[str]) -> str:
    magnitude = 0
    while abs(value) >= step and magnitude < len(names) - 1:
        value /= step
        magnitude += 1
    return f"{_three_digits(value).replace(',', '')} {names[magnitude]}".rstrip()


def _three_digits(value: float) -> str:
    """A number rounded to three significant digits, written out: no forecast and no clock is good for more."""
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _unreadable(text: object, dimension: str) -> UsageError:
    return UsageError(
        f"{text!r} is not a quantity in {dimension.replace('_per_', '/')}.",
        hint=f'Write it like "{_EXAMPLES[dimension]}".',
    )
