"""How good forecasts of measured runs are: errors, intervals, and how much slower the picked plan is than the best.

The error of a row is on what was measured, its primary metric: seconds where a time was, a rate where a rate was.
Nothing is fitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.base.score import interval_score
from datahall.calibrate.forecasting import Forecasts
from datahall.calibrate.published import UNITS, PublishedRun
from datahall.calibrate.refusals import Refusal, counted, usable_rows
from datahall.compute.numbers import stack_plans
from datahall.decisions.choice import preferred

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """All scores of one file of measurements."""

    runs: tuple[PublishedRun, ...]
    forecasts: Forecasts
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> Floats:
        """Signed relative error of each run on what was measured."""
        ratio = 1.0 + self.late
        rates = np.array([run.metric != "step_time_s" for run in self.runs], dtype=bool)
        return np.where(rates, 1.0 / ratio, ratio) - 1.0

    @property
    def late(self) -> Floats:
        """Signed relative error of each run's step time, whatever was measured: above zero is forecast too slow."""
        return self.forecasts.seconds / self._measured - 1.0

    @property
    def held(self) -> NDArray[np.bool_]:
        """Whether each run's measurement lies in its interval."""
        return (self.forecasts.low <= self._measured) & (self._measured <= self.forecasts.high)

    @property
    def _measured(self) -> Floats:
        return np.array([run.step_s for run in self.runs])

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON values; shares, not percent."""
        measured = self._measured
        low, high = self.forecasts.low / measured, self.forecasts.high / measured
        summary = self._summary(np.ones(len(self.runs), dtype=bool))
        return {
            **self._scored(),
            "median_ape": summary["median_ape"],
            "mean_ape": summary["mean_ape"],
            "p90_ape": summary["p90_ape"],
            "macro_median_ape": self._macro("median_ape"),
            "macro_mean_ape": self._macro("mean_ape"),
            "macro_p90_ape": self._macro("p90_ape"),
            "macro_quality": "A" if any(run.quality == "A" for run in self.runs) else None,
            "bias": summary["bias"],
            "interval_coverage_share": summary["interval_coverage_share"],
            "median_half_width_share": summary["median_half_width_share"],
            "interval_score": float(np.mean(interval_score(low, high, 1.0))) if len(measured) else None,
            **self._regret(),
            "scaling": self.scaling(),
            "by_group": self._by([run.group for run in self.runs], [refusal.group for refusal in self.refused]),
            "by_accelerator": self._by(
                [run.accelerator.name for run in self.runs], [refusal.accelerator for refusal in self.refused]
            ),
            "by_condition": self._by(self.forecasts.condition, []),
            "notes": list(self.notes),
            "rows": self._rows(),
        }

    def _scored(self) -> dict[str, Any]:
        """How many rows are scored and refused; `usable` are those that can be and state what any forecast needs."""
        scored, rows = len(self.runs), len(self.runs) + len(self.refused)
        usable = usable_rows(scored, self.refused)
        return {
            "n_rows": rows,
            "n_scored": scored,
            "n_refused": len(self.refused),
            "n_usable": usable,
            "scored_share": scored / rows if rows else None,
            "scored_share_of_usable": scored / usable if usable else None,
            "refused_kinds": counted(self.refused),
            "refused_reasons": dict(Counter(refusal.reason for refusal in self.refused)),
        }

    def _regret(self) -> dict[str, Any]:
        """Choices and their mean regret: over all rows, and over those between runs of quality A."""
        regrets = self.regrets()
        best = [regret for regret, quality in regrets if quality == "A"]
        return {
            "n_choices": len(regrets),
            "regret_share": float(np.mean([regret for regret, _ in regrets])) if regrets else None,
            "n_choices_quality_a": len(best),
            "regret_share_quality_a": float(np.mean(best)) if best else None,
        }

    def regrets(self) -> list[tuple[float, str]]:
        """Of each choice how much slower the plan that the search would take was than the fastest measured (a share).

        With the quality of the rows that it is between, the worst of them.
        """
        found: list[tuple[float, str]] = []
        for indices in choices(self.runs):
            plans = stack_plans([self.runs[index].variants[0].plan for index in indices])
            taken = preferred(self.forecasts.seconds[indices], plans)[0]
            measured = self._measured[indices]
            quality = max(self.runs[index].quality for index in indices)
            found.append((float(measured[taken] / measured.min()) - 1.0, quality))
        return found

    def scaling(self) -> dict[str, Any] | None:
        """Errors of what a device keeps of its rate, between runs that differ in their number of devices.

        Each run is laid beside the one on the fewest devices; of several on as many the fastest measured is taken.
        `linear` errors are those of saying that nothing is lost.
        """
        errors, lost = list[float](), list[float]()
        over = self.forecasts.seconds / self._measured  # of two runs, its ratio is that of what a device keeps
        for first, *more in scaled(self.runs):
            errors += [float(over[first] / over[one]) - 1.0 for one in more]
            lost += [_rate(self.runs[first]) / _rate(self.runs[one]) - 1.0 for one in more]
        if not errors:
            return None
        linear = _off(lost)
        return {
            "n_pairs": len(errors),
            **_off(errors),
            "linear_median_ape": linear["median_ape"],
            "linear_mean_ape": linear["mean_ape"],
        }

    def _macro(self, name: str) -> float | None:
        """The mean over groups of a score, on rows of quality A where there are any."""
        best = [run.quality == "A" for run in self.runs]
        use = np.array(best if any(best) else [True] * len(best), dtype=bool)
        scores: list[float] = []
        for group in dict.fromkeys(run.group for run in self.runs):
            mine = use & np.array([run.group == group for run in self.runs], dtype=bool)
            if mine.any():
                scores.append(self._summary(mine)[name])
        return float(np.mean(scores)) if scores else None

    def _by(self, names: Sequence[str], refused: Sequence[str]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for name in dict.fromkeys([*names, *refused]):
            mine = np.array([other == name for other in names], dtype=bool)
            table[name] = {"n_scored": int(mine.sum()), "n_refused": sum(other == name for other in refused)}
            if mine.any():
                table[name] |= self._summary(mine)
        return table

    def _summary(self, mine: NDArray[np.bool_]) -> dict[str, Any]:
        """Scores of some runs, None each where there are none; their bias is of the step's time, so that it adds up."""
        if not mine.any():
            names = ("median_ape", "mean_ape", "p90_ape", "bias", "interval_coverage_share", "median_half_width_share")
            return dict.fromkeys(names)
        halves = (self.forecasts.high - self.forecasts.low) / (2.0 * self.forecasts.seconds)
        return {
            **_off(self.errors[mine]),
            "bias": float(np.median(self.late[mine])),
            "interval_coverage_share": float(np.mean(self.held[mine])),
            "median_half_width_share": float(np.median(halves[mine])),
        }

    def _rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        errors, held = self.errors, self.held
        for index, run in enumerate(self.runs):
            ends = [run.reading(float(end[index])) for end in (self.forecasts.low, self.forecasts.high)]
            found.append(
                {
                    "id": run.key,
                    "group": run.group,
                    "model": run.model,
                    "accelerator": run.accelerator.name,
                    "quality": run.quality,
                    "scored": True,
                    "metric": run.metric,
                    "unit": UNITS[run.metric],
                    "measured": run.reading(run.step_s),
                    "forecast": run.reading(float(self.forecasts.seconds[index])),
                    "low": min(ends),
                    "high": max(ends),
                    "measured_step_s": run.step_s,
                    "forecast_step_s": float(self.forecasts.seconds[index]),
                    "low_step_s": float(self.forecasts.low[index]),
                    "high_step_s": float(self.forecasts.high[index]),
                    "error_share": float(errors[index]),
                    "held": bool(held[index]),
                    "condition": self.forecasts.condition[index],
                    "source": run.source,
                }
            )
        return found + [
            {
                "id": one.key,
                "group": one.group,
                "model": one.model,
                "accelerator": one.accelerator,
                "scored": False,
                "kind": one.kind,
                "reason": one.reason,
                "source": one.source,
            }
            for one in self.refused
        ]


def choices(runs: Sequence[PublishedRun]) -> list[list[int]]:
    """Which runs are of one model, site, batch, sequence, precision and stack, where several plans were measured."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, run in enumerate(runs):
        alike.setdefault((*_kind(run), run.devices, run.global_batch), []).append(index)
    return [same for same in alike.values() if len({runs[index].variants[0].plan for index in same}) > 1]


def scaled(runs: Sequence[PublishedRun]) -> list[list[int]]:
    """Runs of one model, accelerator, sequence, precision and stack on different numbers of devices, fewest first."""
    alike: dict[tuple[Any, ...], dict[int, int]] = {}
    for index, run in enumerate(runs):
        at = alike.setdefault(_kind(run), {})
        other = at.get(run.devices)
        if other is None or _rate(run) > _rate(runs[other]):
            at[run.devices] = index
    return [[index for _, index in sorted(at.items())] for at in alike.values() if len(at) > 1]


def _kind(run: PublishedRun) -> tuple[Any, ...]:
    """What runs have in common that are laid beside each other, whatever their size; how fp8 is scaled may differ."""
    traits = replace(run.traits, block_scales=0.0)
    release = (run.group, run.stack, traits, run.variants[0].plan.precision)
    return (*release, run.model, run.accelerator.name, run.sequence)


def _rate(run: PublishedRun) -> float:
    """Tokens that a device takes in a second."""
    return run.global_batch * run.sequence / run.step_s / run.devices


def _off(errors: Floats | Sequence[float]) -> dict[str, float]:
    """How far off signed errors are, of which there are some."""
    size = np.abs(errors)
    return {
        "median_ape": float(np.median(size)),
        "mean_ape": float(np.mean(size)),
        "p90_ape": float(np.quantile(size, 0.9)),
        "bias": float(np.median(errors)),
    }
