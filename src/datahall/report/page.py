"""One self-contained HTML file of a run: readable offline, on a telephone, in the dark and on paper.

Figures come from the chart modules, words from the data; whatever a run lacks is said in its place.  All text from a
case or a run is escaped by the template engine.  Nothing is fetched: no script, font or image from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from datahall.base.metric import Metric
from datahall.base.units import human, human_interval
from datahall.report import charts_compare, charts_run
from datahall.report.bottleneck import STEP_COMPONENTS
from datahall.report.comparison import Comparison, ComponentRow
from datahall.report.data import ReportData
from datahall.report.drawing import both_widths, colour_rules
from datahall.report.time_line import one_step
from datahall.report.words import percent, signed_percent, words

VERDICTS = {
    "holds": ("The forecast holds", "Counts are equal, and each large component lies inside its interval."),
    "misses": ("The forecast misses", "A time lies outside its interval. Which one, and by how much, follows."),
    "cancels": ("The total is good by luck", "Component errors cancel each other. That counts as a failure."),
    "differs": ("The plan learns something else", "Losses differ from one process on the same batch."),
    "miscounts": ("The counts differ", "What datahall decides itself has to be equal, and is not."),
}
LABELS = {
    "measured": "observed here, on this machine",
    "calibrated": "fitted here, judged on configurations that the fit did not see",
    "transferred": "fitted elsewhere, on other runs",
    "catalogue": "a data sheet or a published figure",
    "assumed": "not stated by anybody: a default",
}


def render(data: ReportData) -> str:
    """The whole page as HTML."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    numbers: dict[str, Any] = {"human": human, "interval": human_interval, "percent": percent}
    environment.filters.update(numbers, words=words, signed=signed_percent)
    template = environment.from_string(_resource("page.html"))
    return template.render(
        data=data,
        comparison=data.comparison,
        headline=_headline(data.comparison),
        tiles=_tiles(data),
        figures=_figures(data),
        labels=LABELS,
        style=Markup(_resource("page.css") + colour_rules()),  # noqa: S704 (our own file)
        script=Markup(_resource("page.js")),  # noqa: S704 (our own file)
        case_text=json.dumps(dict(data.case), indent=2),
        plan_text=json.dumps(dict(data.plan), indent=2),
        title=_title(data),
    )


def _title(data: ReportData) -> str:
    return str(data.case.get("name") or data.name)


def _headline(comparison: Comparison | None) -> tuple[str, str, str]:
    if comparison is None:
        return ("open", "Not measured yet", "This folder holds a forecast that no run has been laid beside.")
    title, sentence = VERDICTS.get(comparison.verdict.word, (comparison.verdict.word, ""))
    return (comparison.verdict.word, title, sentence)


def _tiles(data: ReportData) -> list[dict[str, str]]:
    """The few figures that stand above everything else."""
    tiles: list[dict[str, str]] = []
    rows = {row.name: row for row in data.comparison.components} if data.comparison else {}
    for name, title in (("step_time", "step time"), ("total_time", "whole run"), ("peak_memory", "peak memory")):
        if name in rows:
            tiles.append(_tile(title, rows[name]))
    if data.heldout:
        score = data.heldout
        tiles.append(
            {
                "title": "unseen configurations",
                "value": percent(score.median_error_share).removesuffix(" %"),
                "unit": "%",
                "below": f"median error of {score.n} step times, "
                f"{percent(score.median_error_share_before)} before calibration",
            }
        )
    return tiles


def _tile(title: str, row: ComponentRow) -> dict[str, str]:
    value, _, unit = human(row.measured, row.unit).partition(" ")
    inside = "inside" if row.within_interval else "outside"
    said = human_interval(row.low, row.high, row.unit)
    return {
        "title": title, "value": value, "unit": unit,
        "below": f"forecast {human(row.forecast, row.unit)} ({signed_percent(row.error_share)}), {inside} {said}",
    }  # fmt: skip


def _figures(data: ReportData) -> dict[str, Markup]:
    """Every figure whose data is there, drawn for both widths."""
    drawn: dict[str, Markup] = {}

    def draw(name: str, chart: Any, *arguments: Any) -> None:
        drawn[name] = Markup(both_widths(lambda width: chart(*arguments, width)))  # noqa: S704 (escaped by Vega)

    metrics: Mapping[str, Metric] = data.forecast.metrics if data.forecast else {}
    if data.comparison:
        if any(row.name in STEP_COMPONENTS and row.measured > 0 for row in data.comparison.components):
            draw("bars", charts_compare.step_bars, data.comparison.components)
        if any(row.measured > 0 and row.forecast > 0 for row in data.comparison.components):
            draw("intervals", charts_compare.component_intervals, data.comparison.components)
    step = one_step(data.spans)
    if step:
        draw("time_line", charts_run.time_line, step, metrics)
    if data.considered:
        draw("plans", charts_run.plans, data.considered)
    if data.losses:
        draw("losses", charts_run.losses, data.losses)
    if data.memory and (data.memory.items or data.memory.measured_peak_bytes):
        draw("memory", charts_run.memory_bars, data.memory, metrics.get("peak_memory"))
    if data.heldout and data.heldout.points:
        draw("heldout", charts_compare.heldout_intervals, data.heldout.points)
    return drawn


def _resource(name: str) -> str:
    return (files("datahall.report") / name).read_text(encoding="utf-8")
