"""The tables of held-out errors, and of what was asked against what was reached: what the README and docs show.

What is held out was written by `refit`; only the runs collected after the fit are forecast here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datahall.calibrate.design import design
from datahall.calibrate.inference_table import shipped_markdown
from datahall.calibrate.refusals import usable_rows
from datahall.calibrate.shipped import shipped_runs
from datahall.calibrate.validate import judge_rows
from datahall.catalog import calibrations
from datahall.catalog.accelerators import accelerator_described

_NAME = "training"
_LEAST_SCORED = 0.95
_MOST_WIDE = 3.0  # half-widths over median errors that were asked for
_SCORES = ("median_ape", "mean_ape", "p90_ape")
# What Calculon's authors (these eight points) and an evaluation on more points of the same sources report, mean.
_CALCULON = {
    "korthikanti": "Calculon 3.65",
    "vtrain-multi": "Calculon 11.1 on its 103",
    "vtrain-single": "Calculon 38.9 on its 1,440",
}


def main() -> int:
    """Write the tables of accuracy into docs/tables under the project's root, which is the first argument."""
    tables = Path(sys.argv[1]) / "docs" / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    held_out = calibrations.calibration(_NAME)["held_out"]
    text = markdown(held_out, rivals(tables / "rivals.md"), refusals())
    (tables / "training-accuracy.md").write_text(text, encoding="utf-8")
    asked = bars(held_out, judge_rows(None, unseen=True).to_json())
    (tables / "training-bars.md").write_text(asked, encoding="utf-8")
    (tables / "inference-accuracy.md").write_text(shipped_markdown(), encoding="utf-8")
    return 0


def rivals(page: Path) -> dict[str, str]:
    """Mean errors of rivals by family: from the table that benchmarks/rivals.py wrote, and published ones.

    Where a rival was run on some of a family's runs only, what datahall reaches on the same ones stands beside it.
    """
    found = dict(_CALCULON)
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    for line in lines[2 : lines.index("") if "" in lines else None]:
        family, rows, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        ours, fitted = (cell.split("/")[1].removesuffix("%").strip() for cell in cells[:2])
        own = f"llm-analysis {fitted}, datahall {ours} on the same {rows}"
        found[family] = f"{found[family]}; {own}" if family in found else own
    return found


def refusals() -> Counter[str]:
    """How many shipped runs are refused, by family and by accelerator."""
    refused = shipped_runs()[1]
    return Counter([*(one.group for one in refused), *(accelerator_described(one.accelerator).name for one in refused)])


def markdown(held_out: Mapping[str, Any], beside: Mapping[str, str], refused: Mapping[str, int]) -> str:
    """Two tables: families left out, accelerators left out; each zero-shot and ten-shot, with intervals.

    `beside` are the errors of rivals by family, `refused` the runs that are not forecast by family and accelerator.
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
            f"| {name} | {_runs(found, refused.get(name))} | {_cells(found)} | {_cells(ten.get(name))} |{rival[name]}"
            for name, found in zero.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _runs(found: Mapping[str, Any], refused: int | None) -> str:
    return f"{found['n_scored']}{f' + {refused} refused' if refused else ''}"


def bars(held_out: Mapping[str, Any], unseen: Mapping[str, Any]) -> str:
    """Two tables: what is asked of forecasts of published runs beside what is reached, the worst part named."""
    summary = held_out["summary"]
    zero, ten = summary["group_zero_shot"], summary["group_ten_shot"]
    lines = ["| runs | asked, at most | reached | |", "|---|---:|---:|---|"]

    def add(what: str, limit: float, reached: float, where: str = "") -> None:
        met = reached <= limit
        lines.append(f"| {what} | {100 * limit:g} % | {100 * reached:.1f} % | {'' if met else '**missed** '}{where} |")

    for title, scores, limits in (("zero-shot", zero, (0.15, 0.20)), ("ten-shot", ten, (0.06, 0.10))):
        add(f"families left out, {title}: median", limits[0], scores["macro_median_ape"])
        add(f"families left out, {title}: mean", limits[1], scores["macro_mean_ape"])
    for title, limit in (("zero_shot", 0.25), ("ten_shot", 0.10)):
        name, worst = _worst(held_out[f"accelerator_{title}"])
        add(f"worst accelerator left out, {title.replace('_', '-')}: mean", limit, worst, name)
    for family, title, limit in (
        ("korthikanti", "zero_shot", 0.05),
        ("maxtext", "ten_shot", 0.10),
        ("vtrain-multi", "zero_shot", 0.10),
        ("vtrain-single", "zero_shot", 0.25),
        ("vtrain-single", "ten_shot", 0.10),
    ):
        add(f"{family}, {title.replace('_', '-')}: mean", limit, held_out[f"group_{title}"][family]["mean_ape"])
    add("korthikanti, sc21's ten rows shown: mean", 0.035, held_out["others_shown"]["korthikanti"]["mean_ape"])
    add("memory, torchtitan's twelve rows of quality A: mean", 0.05, _memory_error())
    add("collected after the fit: median", 0.15, unseen["macro_median_ape"])
    add("collected after the fit: mean", 0.20, unseen["macro_mean_ape"])
    add("regret of the pick, shipped runs, families left out", 0.02, zero["regret_share"])
    add("regret of the pick, shipped runs of quality A, families left out", 0.02, zero["regret_share_quality_a"])
    add("regret of the pick, runs collected after the fit", 0.02, unseen["regret_share"])
    return "\n".join([*lines, *_scored_lines(unseen), "", *_interval_lines(held_out, unseen), ""])


def _scored_lines(unseen: Mapping[str, Any]) -> list[str]:
    """How many of the runs are scored that can have been and state what any forecast needs (95 % asked)."""
    runs, refused = shipped_runs()
    shares = {
        "shipped runs": len(runs) / usable_rows(len(runs), refused),
        "collected after the fit": unseen["scored_share_of_usable"],
    }
    asked = f"at least {100 * _LEAST_SCORED:g} %"
    return [
        f"| {name}: scored, impossible or unstated ones apart | {asked} | {100 * share:.1f} % | "
        f"{'' if share >= _LEAST_SCORED else '**missed**'} |"
        for name, share in shares.items()
    ]


def _interval_lines(held_out: Mapping[str, Any], unseen: Mapping[str, Any]) -> list[str]:
    """How often 90 % intervals hold (85 to 97 % asked) and how wide they are (at most 3 median errors asked)."""
    lines = ["| 90 % intervals | held | half-width / median error | parts of six runs or more below 85 % |"]
    lines.append("|---|---:|---:|---|")
    parts = {name: (scores, held_out[name]) for name, scores in held_out["summary"].items()}
    parts["collected after the fit, by family"] = (unseen, unseen["by_group"])
    parts["collected after the fit, by accelerator"] = (unseen, unseen["by_accelerator"])
    for name, (scores, table) in parts.items():
        low = [
            f"{part} {100 * found['interval_coverage_share']:.0f} %"
            for part, found in table.items()
            if found["n_scored"] >= 6 and found["interval_coverage_share"] < 0.85
        ]
        wide = scores["median_half_width_share"] / scores["median_ape"]
        title = name.replace("_zero_shot", "s left out, zero-shot").replace("_ten_shot", "s left out, ten-shot")
        title = title.replace("groups", "families")
        ratio = f"{wide:.2f}" + (" **missed**" if wide > _MOST_WIDE else "")
        lines.append(f"| {title} | {100 * scores['interval_coverage_share']:.0f} % | {ratio} | {', '.join(low)} |")
    return lines


def _memory_error() -> float:
    """Mean error of the peak memory of torchtitan's runs that state it."""
    runs = [run for run in shipped_runs()[0] if run.memory_bytes and run.group == "torchtitan" and run.quality == "A"]
    stated = np.array([run.memory_bytes for run in runs])
    return float(np.mean(np.abs(design(runs).peak_bytes() / stated - 1.0)))


def _worst(table: Mapping[str, Any]) -> tuple[str, float]:
    name = max(table, key=lambda part: table[part]["mean_ape"] or 0.0)
    return name, table[name]["mean_ape"]


def _cells(found: Mapping[str, float] | None) -> str:
    if not found or found.get("median_ape") is None:
        return "too few runs | "
    errors = " / ".join(f"{100 * found[name]:.1f}" for name in _SCORES)
    return f"{errors} % | {100 * found['interval_coverage_share']:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
