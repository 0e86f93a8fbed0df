"""The table of held-out errors by family and accelerator, from the shipped calibration: what the README and docs show.

Everything in it was written by `refit`; nothing is computed here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datahall.catalog import calibrations

_NAME = "training"
_SCORES = ("median_ape", "mean_ape", "p90_ape")


def main() -> int:
    """Write docs/tables/training-accuracy.md under the project's root, which is the first argument."""
    place = Path(sys.argv[1]) / "docs" / "tables" / "training-accuracy.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(markdown(calibrations.calibration(_NAME)["held_out"]), encoding="utf-8")
    return 0


def markdown(held_out: Mapping[str, Any]) -> str:
    """Two tables: families left out, accelerators left out; each zero-shot and ten-shot, with intervals."""
    lines: list[str] = []
    for what, title in (("group", "family left out"), ("accelerator", "accelerator left out")):
        zero, ten = held_out[f"{what}_zero_shot"], held_out[f"{what}_ten_shot"]
        lines += [
            f"| {title} | runs | zero-shot: median / mean / p90 | interval held | ten-shot: median / mean / p90 "
            "| interval held |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {name} | {found['n_scored']} | {_cells(found)} | {_cells(ten.get(name))} |"
            for name, found in zero.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _cells(found: Mapping[str, float] | None) -> str:
    if not found or found.get("median_ape") is None:
        return "too few runs | "
    errors = " / ".join(f"{100 * found[name]:.1f}" for name in _SCORES)
    return f"{errors} % | {100 * found['interval_coverage_share']:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
