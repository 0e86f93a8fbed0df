"""The table of held-out errors of inference that the docs show: what `refit` wrote; nothing is fitted here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datahall.catalog.calibrations import calibration
from datahall.virtual.serving_constants import NAME

_SUMMARY = {
    "no_fit": "none: round values of the constants, not fitted",
    "fit": "none: constants fitted to all figures",
    "family": "families",
    "model": "models",
    "engine": "engines",
    "accelerator": "accelerators",
    "maker": "makers of accelerators",
    "ratio": "both accelerators of a ratio",
    "unseen": "all: tokens/s of full copies, never fitted",
}


def shipped_markdown() -> str:
    """The table of the shipped calibration."""
    return markdown(calibration(NAME)["held_out"])


def markdown(held_out: Mapping[str, Any]) -> str:
    """Two tables: of all figures by what was left out, and of each part that was."""
    lines = [*_head("left out"), *(_line(title, held_out["summary"][name]) for name, title in _SUMMARY.items()), ""]
    for part, title in _SUMMARY.items():
        if part in held_out:
            title = "tokens/s of full copies, never fitted: on" if part == "unseen" else f"of {title}"
            lines += [*_head(title), *(_line(name, scores) for name, scores in held_out[part].items()), ""]
    return "\n".join(lines)


def _head(title: str) -> list[str]:
    columns = (title, "figures", "error: median / mean", "forecast / measured, median", "interval held")
    return [f"| {' | '.join(columns)} |", "|---|---:|---:|---:|---:|"]


def _line(name: str, scores: Mapping[str, float]) -> str:
    error = f"{100 * scores['median_ape']:.1f} / {100 * scores['mean_ape']:.1f} %"
    held = f"{100 * scores['interval_coverage_share']:.0f} %"
    return f"| {name} | {scores['n_scored']} | {error} | {scores['median_ratio']:.2f} | {held} |"
