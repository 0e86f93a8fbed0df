"""Read the folder that a run leaves behind into `ReportData`, whatever of it is there.

Files, all of them optional except that there must be one:

    case.json plan.json seal.json                    what was asked, decided and sealed
    forecast.json (or virtual/result.json)           the sealed forecast, a Result
    real/result.json, baseline/result.json           what was measured, Results
    real/workers/*.jsonl, baseline/workers/*.jsonl   the workers' logs: time lines and losses
    comparison.json heldout.json                     see report.comparison and base.score
    plans.json memory.json carry_over.json           fields of ConsideredPlan, Memory and CarryOver
    again/again.json                                 fields of ChoiceAgain

A part that is there and cannot be read is an error; a part that is not there is named in `missing`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from datahall.base.errors import UsageError, WorldFailed
from datahall.base.metric import Metric
from datahall.base.result import Result, result_from_json
from datahall.base.score import heldout_from_json
from datahall.report.comparison import comparison_from_json
from datahall.report.data import CarryOver, ChoiceAgain, ConsideredPlan, Contender, Memory, ReportData
from datahall.report.time_line import loss_curve, read_logs, spans_of

T = TypeVar("T")

PLAYS = {"plan": "real", "baseline": "baseline"}  # the name of a play, and its subfolder


def load_run(folder: Path) -> ReportData:
    """What the folder of a run has to show.  UsageError if it is no such folder, WorldFailed if a part is damaged."""
    if not folder.is_dir():
        raise UsageError("there is no such folder.", where=str(folder), hint="Give a folder under runs/.")
    parts = _Parts(folder)
    logs = {play: read_logs(folder / place) for play, place in PLAYS.items()}
    comparison = parts.read("comparison.json", comparison_from_json)
    heldout = parts.read("heldout.json", heldout_from_json)
    if heldout is None and comparison is not None:
        heldout = comparison.heldout
    data = ReportData(
        name=folder.name,
        comparison=comparison,
        forecast=parts.read("forecast.json", _result) or parts.read("virtual/result.json", _result),
        results=parts.results(),
        case=parts.read("case.json", dict) or {},
        plan=parts.read("plan.json", dict) or {},
        spans=spans_of(logs["plan"]),
        considered=parts.read("plans.json", _considered) or (),
        losses=tuple(curve for play, log in logs.items() for curve in loss_curve(play, log)),
        memory=parts.read("memory.json", _memory),
        heldout=heldout,
        again=parts.read("again/again.json", _again),
        carry_over=parts.read("carry_over.json", _carry_over),
        sealed_at=str((parts.read("seal.json", dict) or {}).get("sealed_at", "")),
        missing=tuple(parts.missing),
    )
    if not parts.found:
        raise UsageError("this folder holds no run.", where=str(folder), hint="Give a folder under runs/.")
    return data


class _Parts:
    """Reads the parts of one folder and remembers which were not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[str] = []
        self.missing: list[str] = []

    def read(self, name: str, build: Callable[[Any], T]) -> T | None:
        path = self.folder / name
        if not path.is_file():
            self.missing.append(name)
            return None
        self.found.append(name)
        try:
            return build(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WorldFailed(
                f"cannot read it: {error!r}.", where=str(path), hint="Run `datahall prove` again."
            ) from error

    def results(self) -> Mapping[str, Result]:
        read = {play: self.read(f"{place}/result.json", _result) for play, place in PLAYS.items()}
        return {play: result for play, result in read.items() if result is not None}


def _result(data: Mapping[str, Any]) -> Result:
    inner: Any = data
    for key in ("forecast", "result", "plan"):  # a proposal or a seal may wrap the result
        if "metrics" not in inner and isinstance(inner.get(key), Mapping):
            inner = inner[key]
    return result_from_json(inner)


def _considered(data: Mapping[str, Iterable[Mapping[str, Any]]]) -> tuple[ConsideredPlan, ...]:
    return tuple(ConsideredPlan(**entry) for entry in data["plans"])


def _memory(data: Mapping[str, Any]) -> Memory:
    return Memory(data.get("items", {}), tuple(data.get("measured_peak_bytes", ())))


def _again(data: Mapping[str, Any]) -> ChoiceAgain:
    return ChoiceAgain(tuple(Contender(**entry) for entry in data["contenders"]), data["seal_sha256"])


def _carry_over(data: Mapping[str, Any]) -> CarryOver:
    metrics = tuple(Metric.from_json(metric) for metric in data["metrics"])
    return CarryOver(data["model"], data["site"], data["plan"], metrics, tuple(data.get("notes", ())))
