"""Refit every shipped calibration from the shipped published runs: `python -m datahall.calibrate.refit [--check]`.

Writes `catalog/calibrations/training.json` and `inference.json`; `--check` compares every figure of these files,
held-out errors too, with the refitted one to three digits and writes nothing.  Takes about a minute on one core.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datahall.catalog
from datahall.calibrate import inference_refit
from datahall.calibrate.fit import fit
from datahall.calibrate.forecasting import Trained, forecast_runs
from datahall.calibrate.holdout import (
    accelerator_of,
    group_of,
    interval_factors,
    left_out_forecasts,
    ten_shot,
    trained_on,
    with_factors,
)
from datahall.calibrate.judge import Judgement
from datahall.calibrate.published import PublishedRun
from datahall.calibrate.shipped import NAME, shipped_runs, trained_json
from datahall.catalog import calibrations

_SCORES = ("n_scored", "median_ape", "mean_ape", "p90_ape", "interval_coverage_share", "median_half_width_share")
_REGRETS = ("regret_share", "regret_share_quality_a")
_OVERALL = (*_SCORES, "macro_median_ape", "macro_mean_ape", "interval_score")
_LAST_DIGIT = 1.01e-4  # that figures are stored with


def main(arguments: Sequence[str] | None = None) -> int:
    """Refit; 0 if written or, with --check, alike."""
    arguments = sys.argv[1:] if arguments is None else arguments
    found = {NAME: refitted(), inference_refit.NAME: inference_refit.refitted()}
    if "--check" in arguments:
        apart = {name: differing(calibrations.calibration(name), data) for name, data in found.items()}
        for name, figures in apart.items():
            for figure, (shipped, again) in figures.items():
                print(f"{name}: {figure}: shipped {shipped}, refitted {again}")
        alike = not any(apart.values())
        print("all figures alike to three digits" if alike else "other figures are shipped than are refitted")
        return 0 if alike else 1
    for name, data in found.items():
        path = Path(datahall.catalog.__file__).parent / "calibrations" / f"{name}.json"
        path.write_text(json.dumps(data, indent=1, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"wrote {path}")
    return 0


def refitted() -> dict[str, Any]:
    """The calibration of training steps as the shipped runs give it, as plain JSON values."""
    runs, _ = shipped_runs()
    fitted = fit(runs)
    trained = with_factors(fitted, runs, interval_factors(runs, fitted.constants))
    return trained_json(trained, runs, held_out(runs, trained))


def differing(shipped: Any, refitted: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Figures of two calibrations that are not alike to three significant digits, by where they stand.

    All but the constants are stored rounded, so that one unit of their last stored digit is alike too.  Of which rows
    an interval's edge runs through one may hold on one machine and not on another.
    """
    if isinstance(shipped, Mapping) and isinstance(refitted, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*shipped, *(key for key in refitted if key not in shipped)]:
            pair = (shipped.get(key, "missing"), refitted.get(key, "missing"))
            if not (key == "interval_coverage_share" and _one_row_apart(*pair, shipped.get("n_scored"))):
                found |= differing(*pair, f"{name}.{key}".lstrip("."))
        return found
    if not (isinstance(shipped, float) and isinstance(refitted, float)):
        return {} if shipped == refitted else {name: (shipped, refitted)}
    least = 0.0 if name.startswith("constants") else _LAST_DIGIT
    alike = math.isclose(shipped, refitted, rel_tol=1e-3, abs_tol=least)
    return {} if alike else {name: (shipped, refitted)}


def _one_row_apart(shipped: Any, refitted: Any, rows: Any) -> bool:
    """Whether two shares of more than two rows are one row apart."""
    both = isinstance(shipped, float) and isinstance(refitted, float)
    return both and bool(rows) and rows > 2 and abs(shipped - refitted) * rows <= 1.001


def held_out(runs: Sequence[PublishedRun], trained: Trained) -> dict[str, Any]:
    """Errors on runs that the fit has not seen, by group and accelerator, with none and with at most ten rows.

    `summary` has them over all rows, and as means over groups of those of quality A.
    """
    start = trained.fitted.constants
    table: dict[str, Any] = {"summary": {}}
    for title, key in (("group", group_of), ("accelerator", accelerator_of)):
        none = left_out_forecasts(runs, runs, key, trained.factors, start=start)
        rest, few = ten_shot(runs, key, trained.factors, start)
        for name, judged, found in (("zero_shot", runs, none), ("ten_shot", rest, few)):
            scores = Judgement(tuple(judged), found, ()).to_json()
            table[f"{title}_{name}"] = _rounded(scores["by_group" if key is group_of else "by_accelerator"])
            table["summary"] |= _rounded(
                {f"{title}_{name}": scores}, (*(_REGRETS if name == "zero_shot" else ()), *_OVERALL)
            )  # of draws of shown rows no regret
    table["others_shown"] = _rounded({"korthikanti": _others_shown(runs, trained, "korthikanti", "sc21").to_json()})
    return table


def _others_shown(runs: Sequence[PublishedRun], trained: Trained, family: str, other: str) -> Judgement:
    """A family left out of the fit, after all runs of another one on its stack were shown once more."""
    rest = trained_on([run for run in runs if run.group != family], trained.factors, trained.fitted.constants)
    own, shown = ([run for run in runs if run.group == group] for group in (family, other))
    return Judgement(tuple(own), forecast_runs(rest, own, shown), ())


def _rounded(table: Mapping[str, Any], wanted: Sequence[str] = _SCORES) -> dict[str, Any]:
    return {
        name: {field: round(scores[field], 4) if scores.get(field) is not None else None for field in wanted}
        for name, scores in table.items()
    }


if __name__ == "__main__":
    sys.exit(main())
