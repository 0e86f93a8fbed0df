"""Names and shares as people read them, the same in figures, page and terminal."""

from __future__ import annotations

_OWN_WORDS = {"tokens_per_s": "throughput"}
_ABBREVIATIONS = {"mfu": "MFU", "flops": "FLOPs", "ttft": "TTFT", "cpu": "CPU"}


def words(name: str) -> str:
    """A metric's or count's name in words: "matmul_flops" is "matmul FLOPs"."""
    if name in _OWN_WORDS:
        return _OWN_WORDS[name]
    return " ".join(_ABBREVIATIONS.get(part, part) for part in name.replace("_", " ").split(" "))


def percent(share: float | None) -> str:
    """A share in percent, with one decimal where it is small; a dash for none."""
    return "–" if share is None else f"{100 * share:.{_digits(share)}f} %"


def signed_percent(share: float | None) -> str:
    """A difference as a share in percent, its sign before it; a dash for none."""
    if share is None:
        return "–"
    text = f"{100 * abs(share):.{_digits(share)}f}"
    sign = "" if float(text) == 0 else "+" if share > 0 else "−"
    return f"{sign}{text} %"


def _digits(share: float) -> int:
    return 0 if abs(share) >= 0.0995 else 1
