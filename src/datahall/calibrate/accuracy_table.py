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
# What Calculon's authors (its own eight points) and an evaluation on more points of the same sources report, mean.
_CALCULON = {"korthikanti": "Calculon 3.65", "vtrain-multi": "Calculon 11.1", "vtrain-single": "Calculon 38.9"}


def main() -> int:
    """Write docs/tables/training-accuracy.md under the project's root, which is the first argument."""
    tables = Path(sys.argv[1]) / "docs" / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    text = markdown(calibrations.calibration(_NAME)["held_out"], rivals(tables / "rivals.md"))
    (tables / "training-accuracy.md").write_text(text, encoding="utf-8")
    return 0


def rivals(page: Path) -> dict[str, str]:
    """Mean errors of rivals by family: from the table that benchmarks/rivals.py wrote, and published ones."""
    found = dict(_CALCULON)
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    for line in lines[2 : lines.index("") if "" in lines else None]:
        family, rows, _, fitted, _ = (cell.strip() for cell in line.strip("|").split("|"))
        own = f"llm-analysis {fitted.split('/')[1].removesuffix('%').strip()} ({rows} runs)"
        found[family] = f"{found[family]}; {own}" if family in found else own
    return found


def markdown(held_out: Mapping[str, Any], beside: Mapping[str, str]) -> str:
    """Two tables: families left out, accelerators left out; each zero-shot and ten-shot, with intervals.

    `beside` are the errors of rivals by family.
    """
    lines: list[str] = []
    for what, title in (("group", "family left out"), ("accelerator", "accelerator left out")):
        zero, ten = held_out[f"{what}_zero_shot"], held_out[f"{what}_ten_shot"]
        rival = {name: f" {beside.get(name, '')} |" if what == "group" else "" for name in zero}
        lines += [
            f"| {title} | runs | zero-shot: median / mean / p90 | interval held | ten-shot: median / mean / p90 "
            f"| interval held |{' rivals: mean, % |' if what == 'group' else ''}",
            f"|---|---:|---:|---:|---:|---:|{'---|' if what == 'group' else ''}",
        ]
        lines += [
            f"| {name} | {found['n_scored']} | {_cells(found)} | {_cells(ten.get(name))} |{rival[name]}"
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
