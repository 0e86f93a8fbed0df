"""Figures of forecast against measurement: a step's seconds side by side, and intervals around each component.

Both intervals figures read alike: the orange line is what was measured, a dot the forecast over it, its band the 90 %
interval; a band that crosses the line held.  Values that cannot stand on a ratio scale (zero) are left to the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from datahall.base.score import HeldOutPoint
from datahall.base.units import human
from datahall.report.bottleneck import STEP_COMPONENTS
from datahall.report.comparison import ComponentRow
from datahall.report.drawing import NARROW, colour, component_scale, milliseconds, name_colour, values
from datahall.report.words import signed_percent, words

LIMIT = 8.0  # ratios beyond this are drawn at the edge
TICKS = (1 / 8, 1 / 4, 1 / 2, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0)


def step_bars(rows: Sequence[ComponentRow], width: int) -> Any:
    """Seconds of one step, forecast above measured, by component."""
    cells = [*_stack("forecast", rows, "forecast"), *_stack("measured", rows, "measured")]
    longest = max((cell["end"] for cell in cells), default=1.0)
    for cell in cells:
        room = (cell["end"] - cell["start"]) / longest * (width - 90)
        cell["text"] = cell["component"] if room > 7 * len(cell["component"]) + 10 else ""
    order = alt.Y("side:N", sort=["forecast", "measured"], title=None, axis=alt.Axis(minExtent=70))
    chart = alt.Chart(values(cells))
    bars = chart.mark_bar(stroke=colour("paper"), strokeWidth=1.5, cornerRadius=2).encode(
        x=milliseconds("ms of one step", longest, width),
        x2="end:Q",
        y=order,
        color=alt.Color("component:N", scale=component_scale(), legend=_step_legend(width, cells)),
        description="said:N",
    )
    names = chart.mark_text(fontWeight=600, fontSize=12).encode(
        x=alt.X("middle:Q"), y=order, text="text:N", color=name_colour()
    )
    return (bars + names).properties(width=width, height=alt.Step(46))


def component_intervals(rows: Sequence[ComponentRow], width: int) -> Any:
    """The forecast of each component over its measurement, with interval and noise, on a ratio scale."""
    cells: list[dict[str, Any]] = [
        {
            "name": words(row.name),
            "ratio": row.forecast / row.measured,
            "low": row.low / row.measured,
            "high": row.high / row.measured,
            "noise_low": row.measured_low / row.measured,
            "noise_high": row.measured_high / row.measured,
            "said": f"{row.name}: forecast {human(row.forecast, row.unit)} "
            f"({human(row.low, row.unit)} to {human(row.high, row.unit)}), measured {human(row.measured, row.unit)}",
        }
        for row in rows
        if row.measured > 0 and row.forecast > 0
    ]
    names = [str(cell["name"]) for cell in cells]
    layers = _forest(cells, names, width, dot=colour("forecast"), band=colour("band"))
    noise = alt.Chart(values(_clipped(cells, _edge(cells)))).mark_bar(
        size=4, color=colour("measured"), opacity=0.55, cornerRadius=2
    )
    noise = noise.encode(
        x=alt.X("noise_low:Q", scale=_scale(cells)), x2="noise_high:Q", y=alt.Y("name:N", sort=names, title=None)
    )
    return alt.layer(layers[0], layers[1], noise, *layers[2:]).properties(width=width, height=alt.Step(30))


def heldout_intervals(points: Sequence[HeldOutPoint], width: int) -> Any:
    """Forecasts of configurations that the fit has not seen, before and after calibration, over their measurements."""
    ordered = sorted(points, key=lambda point: point.forecast / point.measured)
    names = [point.name for point in ordered]
    after = [
        {
            "name": point.name,
            "ratio": point.forecast / point.measured,
            "low": point.low / point.measured,
            "high": point.high / point.measured,
            "before": point.forecast_before / point.measured,
            "said": f"{point.name}: measured {human(point.measured, 'seconds')}, forecast after calibration "
            f"{human(point.forecast, 'seconds')}, before {human(point.forecast_before, 'seconds')}",
        }
        for point in ordered
    ]
    edge = _edge(after, "before")
    scale = alt.Scale(type="log", domain=[1 / edge, edge], nice=False)
    layers = _forest(after, names, width, dot=colour("forecast"), band=colour("band"), edge=edge, labelled=False)
    before = alt.Chart(values(_clipped(after, edge))).mark_point(
        shape="circle", size=46, strokeWidth=1.6, color=colour("soft"), fill=colour("paper"), opacity=1
    )
    before = before.encode(
        x=alt.X("before:Q", scale=scale), y=alt.Y("name:N", sort=names, title=None), description="said:N"
    )
    return alt.layer(layers[0], layers[1], before, *layers[2:]).properties(width=width, height=alt.Step(21))


def _stack(side: str, rows: Sequence[ComponentRow], attribute: str) -> list[dict[str, Any]]:
    seconds = {row.name: float(getattr(row, attribute)) for row in rows}
    cells: list[dict[str, Any]] = []
    start = 0.0
    for name in STEP_COMPONENTS:
        length = 1e3 * seconds.get(name, 0.0)
        if length > 0:
            said = f"{side} {name}: {human(length / 1e3, 'seconds')}"
            cells.append({"side": side, "component": name, "start": start, "end": start + length, "said": said})
            cells[-1]["middle"] = start + length / 2
            start += length
    return cells


def _step_legend(width: int, cells: list[dict[str, Any]]) -> alt.Legend:
    present = [name for name in STEP_COMPONENTS if any(cell["component"] == name for cell in cells)]
    return alt.Legend(values=present, columns=3 if width <= NARROW else 6, symbolStrokeWidth=0)


def _forest(
    cells: list[dict[str, Any]], names: list[str], width: int, *, dot: str, band: str, edge: float = 0.0,
    labelled: bool = True,
) -> list[Any]:  # fmt: skip
    """The layers of an intervals figure: the measured line, bands, dots, and the error beside each dot."""
    edge = edge or _edge(cells)
    scale = alt.Scale(type="log", domain=[1 / edge, edge], nice=False)
    ticks = _ticks(edge, width)
    axis = alt.Axis(
        values=ticks, labelExpr="format(datum.value, '~r') + '×'", grid=True, title="forecast over measured"
    )
    chart = alt.Chart(values(_clipped(cells, edge)))
    y = alt.Y("name:N", sort=names, title=None)
    truth = alt.Chart(values([{"one": 1.0}])).mark_rule(color=colour("measured"), strokeWidth=2)
    layers: list[Any] = [
        truth.encode(x=alt.X("one:Q", scale=scale, axis=axis)),
        chart.mark_bar(size=12, color=band, cornerRadius=6).encode(
            x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, description="said:N"
        ),
        chart.mark_point(shape="circle", filled=True, size=80, color=dot, opacity=1).encode(
            x=alt.X("ratio:Q", scale=scale), y=y, description="said:N"
        ),
    ]
    if labelled:
        layers.append(
            chart.mark_text(align="left", dx=10, color=colour("ink"), fontSize=12).encode(
                x=alt.X("label_at:Q", scale=scale), y=y, text="error:N"
            )
        )
    return layers


def _clipped(cells: list[dict[str, Any]], edge: float) -> list[dict[str, Any]]:
    """The cells with every ratio inside the drawn range, and a label that tells the true error."""
    clipped: list[dict[str, Any]] = []
    for cell in cells:
        ratios = {key: min(max(v, 1 / edge), edge) for key, v in cell.items() if isinstance(v, float)}
        at = max(ratios["ratio"], ratios["high"], ratios.get("noise_high", 0.0))
        clipped.append({**cell, **ratios, "error": signed_percent(cell["ratio"] - 1), "label_at": at})
    return clipped


def _edge(cells: list[dict[str, Any]], *more: str) -> float:
    """The largest ratio to draw: what the dots need, with a margin, between 1.5 and LIMIT."""
    keys = ("ratio", "low", "high", *more)
    ratios = [float(cell[key]) for cell in cells for key in keys if 0 < float(cell[key]) < float("inf")]
    return min(LIMIT, max([1.35, *(max(ratio, 1 / ratio) for ratio in ratios)]) * 1.12)


def _scale(cells: list[dict[str, Any]]) -> alt.Scale:
    edge = _edge(cells)
    return alt.Scale(type="log", domain=[1 / edge, edge], nice=False)


def _ticks(edge: float, width: int) -> list[float]:
    inside = [tick for tick in TICKS if 1 / edge <= tick <= edge]
    if edge > 2.5 or width <= NARROW:
        inside = [tick for tick in inside if tick in (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)]
    if len(inside) < 3:
        inside = [0.75, 1.0, 1.33]
    return inside
