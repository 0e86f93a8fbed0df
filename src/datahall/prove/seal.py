"""A forecast is written and hashed before the run, and a run under a changed seal stops.

The seal shows that the numbers were not touched afterwards; it does not defend against whoever rewrites both files.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datahall.base.errors import SealBroken
from datahall.prove.folder import read_json, write_json

FORECAST = "forecast.json"
SEAL = "seal.json"


def seal(folder: Path, forecast: dict[str, Any]) -> str:
    """Write `forecast` and its seal into `folder`; returns the SHA-256 of the file, hexadecimal."""
    write_json(folder / FORECAST, forecast)
    digest = _digest(folder / FORECAST)
    write_json(
        folder / SEAL,
        {"sha256": digest, "file": FORECAST, "sealed_at": datetime.now(UTC).isoformat(timespec="seconds")},
    )
    return digest


def check(folder: Path) -> str:
    """The seal's SHA-256, after making sure that the forecast still matches it; SealBroken if it does not."""
    sealed = read_json(folder / SEAL)["sha256"]
    if _digest(folder / FORECAST) != sealed:
        raise SealBroken(
            "the forecast was changed after it was sealed, so a measurement beside it would prove nothing.",
            where=str(folder / FORECAST),
            hint="Plan and seal again in a new folder.",
        )
    return sealed


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
