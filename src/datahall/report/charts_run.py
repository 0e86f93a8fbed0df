"""Figures of the run itself: one step by worker, the plans that were weighed, losses, memory.

They draw what they are given and aggregate nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from datahall.base.metric import Metric
from datahall.base.units import human
from datahall.report.bottleneck import STEP_COMPONENTS
from datahall.report.data import ConsideredPlan, LossCurve, Memory, Span
from datahall.report.drawing import NARROW, colour, component_scale, milliseconds, name_colour, values

MOST_PLANS = 400
LOSS_POINTS = 240
MIB = 2.0**20
MEMORY_HUES = ("compute", "input", "optimiser", "transfer", "checkpoint", "waiting", "startup")
IN_THE_BACKGROUND = frozenset({"transfer", "waiting", "overlapped"})


def time_line(spans: Sequence[Span], forecast: Mapping[str, Metric], width: int) -> Any:
    """One step: the forecast's components in a row, then each worker's, what travels below what computes."""
    cells = [*_forecast_lane(forecast), *_worker_lanes(spans)]
    longest = max((cell["end"] for cell in cells), default=1.0)
    for cell in cells:
        room = (cell["end"] - cell["start"]) / longest * (width - 110)
        cell["text"] = cell["component"] if room > 7 * len(cell["component"]) + 8 else ""
    lanes = list(dict.fromkeys(cell["lane"] for cell in cells))
    y = alt.Y(
        "lane:N", sort=lanes, title=None, axis=alt.Axis(labelExpr="split(datum.label, '·')[1] ? '' : datum.label")
    )
    chart = alt.Chart(values(cells))
    present = [name for name in component_scale().to_dict()["domain"] if any(c["component"] == name for c in cells)]
    legend = alt.Legend(values=present, columns=3 if width <= NARROW else 7, symbolStrokeWidth=0)
    bars = chart.mark_bar(stroke=colour("paper"), strokeWidth=1, cornerRadius=2).encode(
        x=milliseconds("ms since the step began", longest, width),
        x2="end:Q",
        y=y,
        color=alt.Color("component:N", scale=component_scale(), legend=legend),
        description="said:N",
    )
    names = chart.mark_text(fontSize=11, fontWeight=600).encode(
        x=alt.X("middle:Q"), y=y, text="text:N", color=name_colour()
    )
    return (bars + names).properties(width=width, height=alt.Step(30))


def plans(considered: Sequence[ConsideredPlan], width: int) -> Any:
    """Every plan that was priced by step time and memory; the front, the chosen one, and those that do not fit."""
    kept = sorted(considered, key=lambda plan: (not plan.chosen, not plan.fits, plan.step_time_s))[:MOST_PLANS]
    front = {id(plan) for plan in _front(kept)}
    cells: list[dict[str, Any]] = [
        {
            "seconds": plan.step_time_s,
            "gib": plan.memory_bytes / 2**30,
            "state": "chosen" if plan.chosen else "does not fit" if not plan.fits else "fits",
            "front": id(plan) in front,
            "name": plan.name,
            "said": f"{plan.name}: {human(plan.step_time_s, 'seconds')} a step, {human(plan.memory_bytes, 'bytes')}"
            + (f"; {plan.why}" if plan.why else ""),
        }
        for plan in kept
        if plan.step_time_s > 0 and plan.memory_bytes > 0 and math.isfinite(plan.step_time_s)
    ]
    x = alt.X("seconds:Q", title="forecast seconds a step", **_log_axis([cell["seconds"] for cell in cells], width))
    y = alt.Y("gib:Q", title="peak memory a process, GiB", **_log_axis([cell["gib"] for cell in cells], 300))
    states, hues = ["chosen", "fits", "does not fit"], [colour("measured"), colour("forecast"), colour("before")]
    chart = alt.Chart(values(cells))
    hue = alt.Color("state:N", scale=alt.Scale(domain=states, range=hues))
    shape = alt.Shape("state:N", scale=alt.Scale(domain=states, range=["circle", "circle", "cross"]))
    line = chart.transform_filter("datum.front").mark_line(
        interpolate="step-after", color=colour("line"), strokeWidth=1.5
    )
    dots = chart.mark_point(filled=True, opacity=0.85, size=54).encode(
        x=x, y=y, color=hue, shape=shape, description="said:N"
    )
    chosen = chart.transform_filter("datum.state == 'chosen'")
    ring = chosen.mark_point(size=240, strokeWidth=2, color=colour("measured"), fill="transparent").encode(x=x, y=y)
    name = chosen.mark_text(align="left", dx=15, dy=-11, fontWeight=600, color=colour("ink")).encode(
        x=x, y=y, text="name:N"
    )
    return (line.encode(x=x, y=y) + dots + ring + name).properties(width=width, height=300 if width > NARROW else 240)


def losses(curves: Sequence[LossCurve], width: int) -> Any:
    """Training loss by step, each curve named at its end; a dashed line where a killed run went on."""
    hues = [colour("measured"), colour("before"), colour("forecast"), colour("optimiser")]
    names = [curve.name for curve in curves]
    points = [
        {"step": step, "loss": loss, "name": curve.name}
        for curve in curves
        for step, loss in _thinned(list(zip(curve.steps, curve.losses, strict=True)))
        if math.isfinite(loss)
    ]
    last = {point["name"]: point for point in points}
    resumed = [{"step": step, "text": "killed and resumed"} for curve in curves for step in curve.resumed_at]
    scale = alt.Scale(domain=names, range=hues[: len(names)])
    x = alt.X("step:Q", title="optimiser step", scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, tickCount=6))
    y = alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    base = alt.Chart(values(points))
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=3)
    hue = alt.Color("name:N", scale=scale, sort=names, legend=legend)
    # the first curve is thin and on top of the others' broad ones, so that equal curves can both be seen
    others = base.transform_filter(alt.datum.name != names[0]).mark_line(strokeWidth=6, opacity=0.55, strokeCap="round")
    first = base.transform_filter(alt.datum.name == names[0]).mark_line(strokeWidth=2)
    lines = others.encode(x=x, y=y, color=hue) + first.encode(x=x, y=y, color=hue)
    ends = alt.Chart(values(_spread([last[name] for name in names if name in last], points))).mark_text(
        align="right", fontWeight=600
    )
    ends = ends.encode(x=x, y="at:Q", text="text:N", color=alt.Color("name:N", scale=scale, legend=None))
    marks = alt.Chart(values(resumed))
    rules = marks.mark_rule(strokeDash=[3, 3], color=colour("soft")).encode(x="step:Q")
    notes = marks.mark_text(align="left", dx=6, color=colour("soft")).encode(x="step:Q", y=alt.value(8), text="text:N")
    layers = [lines, ends, *([rules, notes] if resumed else [])]
    return alt.layer(*layers).properties(width=width, height=260 if width > NARROW else 200)


def memory_bars(memory: Memory, forecast: Metric | None, width: int) -> Any:
    """One process's memory by item as forecast, the interval of the sum, and each worker's measured peak."""
    cells = _memory_cells(memory, forecast)
    peaks = [
        {"lane": f"worker {worker}", "mib": peak / MIB, "text": human(peak, "bytes")}
        for worker, peak in enumerate(memory.measured_peak_bytes)
    ]
    items = list(dict.fromkeys(cell["item"] for cell in cells))
    lanes = ["forecast", *(f"worker {worker}" for worker in range(len(peaks)))]
    y = alt.Y("lane:N", sort=lanes, title=None)
    legend = alt.Legend(columns=2 if width <= NARROW else 7, symbolStrokeWidth=0)
    hues = alt.Scale(domain=items, range=[colour(MEMORY_HUES[place % len(MEMORY_HUES)]) for place in range(len(items))])
    axis = alt.Axis(tickCount=4 if width <= NARROW else 8)
    bars = alt.Chart(values(cells)).mark_bar(stroke=colour("paper"), strokeWidth=1.5, cornerRadius=2)
    layers: list[Any] = [
        bars.encode(
            x=alt.X("start:Q", title="MiB a process, above the idle worker", axis=axis),
            x2="end:Q",
            y=y,
            color=alt.Color("item:N", scale=hues, sort=items, legend=legend),
            description="said:N",
        )
    ]
    if forecast is not None:
        ends = alt.Chart(values([{"lane": "forecast", "low": forecast.low / MIB, "high": forecast.high / MIB}]))
        layers.append(ends.mark_rule(strokeWidth=2, color=colour("ink")).encode(x="low:Q", x2="high:Q", y=y))
    if peaks:
        dots = alt.Chart(values(peaks))
        layers.append(dots.mark_bar(size=3, color=colour("measured"), opacity=0.5).encode(x="mib:Q", y=y))
        layers.append(dots.mark_point(filled=True, size=80, color=colour("measured"), opacity=1).encode(x="mib:Q", y=y))
        layers.append(dots.mark_text(align="left", dx=10).encode(x="mib:Q", y=y, text="text:N"))
    return alt.layer(*layers).properties(width=width, height=alt.Step(32))


def _memory_cells(memory: Memory, forecast: Metric | None) -> list[dict[str, Any]]:
    sizes = {name: size for name, size in memory.items.items() if size > 0}
    if not sizes and forecast is not None:
        sizes = {"all": forecast.value}
    cells: list[dict[str, Any]] = []
    start = 0.0
    for name, size in sizes.items():
        cell = {"lane": "forecast", "item": name.replace("_", " "), "start": start, "end": start + size / MIB}
        cells.append({**cell, "said": f"{name}: {human(size, 'bytes')}"})
        start += size / MIB
    return cells


def _forecast_lane(forecast: Mapping[str, Metric]) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = []
    start = 0.0
    for name in STEP_COMPONENTS:
        length = 1e3 * forecast[name].value if name in forecast else 0.0
        if length > 0:
            cells.append(_cell("forecast", name, name, start, start + length))
            start += length
    return cells


def _worker_lanes(spans: Sequence[Span]) -> list[dict[str, Any]]:
    begin = min((span.start_s for span in spans), default=0.0)
    ordered = sorted(spans, key=lambda span: (span.worker, span.component in IN_THE_BACKGROUND, span.start_s))
    return [
        _cell(
            f"worker {span.worker}" + ("·below" if span.component in IN_THE_BACKGROUND else ""),
            span.component, span.name, 1e3 * (span.start_s - begin), 1e3 * (span.end_s - begin),
        )
        for span in ordered
    ]  # fmt: skip


def _cell(lane: str, component: str, name: str, start: float, end: float) -> dict[str, Any]:
    said = f"{lane.split('·')[0]}, {component}" + (f" ({name})" if name != component else "")
    return {
        "lane": lane, "component": component, "start": start, "end": end, "middle": (start + end) / 2,
        "said": f"{said}: {human((end - start) / 1e3, 'seconds')}",
    }  # fmt: skip


def _front(considered: Sequence[ConsideredPlan]) -> list[ConsideredPlan]:
    """The plans that no other beats in both time and memory."""
    front: list[ConsideredPlan] = []
    for plan in sorted((p for p in considered if p.fits), key=lambda p: (p.step_time_s, p.memory_bytes)):
        if not front or plan.memory_bytes < front[-1].memory_bytes:
            front.append(plan)
    return front


def _log_axis(numbers: Sequence[float], width: int) -> dict[str, Any]:
    """Scale and axis around positive numbers, with ticks at 1, 2 and 5 (or only 1) of each power of ten."""
    low, high = min(numbers, default=1.0) / 1.25, max(numbers, default=1.0) * 1.25
    digits = (1.0,) if high / low > (1e4 if width > NARROW else 100) else (1.0, 2.0, 5.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return {"scale": scale, "axis": alt.Axis(values=ticks, format="~g")}


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    every = max(1, len(points) // LOSS_POINTS)
    return points[::every] + (points[-1:] if (len(points) - 1) % every else [])


def _spread(ends: list[dict[str, Any]], points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels for the ends of curves, one above the other and above the last fifth of all curves."""
    losses_seen = [point["loss"] for point in points]
    line = 0.085 * (max(losses_seen, default=1.0) - min(losses_seen, default=0.0))
    last_step = max((point["step"] for point in points), default=0)
    tail = max((point["loss"] for point in points if point["step"] >= 0.8 * last_step), default=0.0)
    ordered = sorted(ends, key=lambda end: end["loss"])
    return [
        {**end, "step": last_step, "at": tail + line * (1 + place), "text": f"{end['name']} {end['loss']:.3f}"}
        for place, end in enumerate(ordered)
    ]
