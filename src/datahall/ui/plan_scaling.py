"""`datahall plan --ask scaling`: what fewer and more devices bring, as a table or as JSON.

The answer comes from `search.scaling`; only words are added here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.text import Text

from datahall.base.metric import overlaps
from datahall.base.units import human
from datahall.case.question import Case
from datahall.report.terminal import plain_table
from datahall.search.scaling import WORTH_SHARE, Scaling, Size, fitted_devices, scaling
from datahall.ui.plan_metrics import cell, metrics_json, resting, share_cell, unordered
from datahall.ui.plan_text import split_text
from datahall.virtual.calibration import Calibration


def scaling_answer(case: Case, calibration: Calibration) -> tuple[dict[str, Any], Group]:
    """The sizes as plain JSON values, and as a page for a terminal."""
    found = scaling(case, calibration)
    seen = fitted_devices(case.site.accelerator.name)
    beyond = [seen is not None and not seen[0] <= size.site.devices <= seen[1] for size in found.sizes]
    steps = [size.forecast.metrics["step_time"] for size in found.sizes]
    close = overlaps(steps)
    table = plain_table("Devices", "a step", "tokens/s", "kept", "cost", "energy", "split", "lost to")
    table.columns[6].no_wrap = False  # on many devices splits are long: they take a second line, and figures stay whole
    for size, marked in zip(found.sizes, beyond, strict=True):
        metrics = size.forecast.metrics
        table.add_row(
            f"{size.site.devices:,}{'*' if marked else ''}\n{metrics['step_time'].label}",
            cell(metrics["step_time"]),
            human(metrics["tokens_per_s"].value, "count"),
            f"{100 * found.kept_share(size):.0f} %",
            share_cell(metrics["cost"]),
            share_cell(metrics["energy"]),
            split_text(size.plan),
            found.lost_to(size),
            style="bold" if size is found.worth else "",
        )
    said = {
        "sizes": [
            {**_size_json(found, size), "overlaps_previous": alike}
            for size, alike in zip(found.sizes, close, strict=True)
        ],
        "worth_devices": found.worth.site.devices,
        "fitted_devices": seen,
    }
    foot = [_foot(case, seen, any(beyond)), resting([size.forecast for size in found.sizes]), unordered(steps, "steps")]
    return said, Group(_head(case, found), table, Text(" ".join(foot).strip(), style="dim"))


def _head(case: Case, found: Scaling) -> Text:
    worth, best, application = found.worth.site.devices, found.sizes[found.best].site.devices, case.application
    text = Text()
    text.append(f"Up to {worth:,} devices", style="bold")
    text.append(", the most that were tried," if found.worth is found.sizes[-1] else "")
    text.append(f" one does at least {100 * WORTH_SHARE:.0f} % of what it does at best, which is on {best:,}.\n")
    text.append(f"Always {application.global_batch:,} x {application.sequence:,} tokens a step.\n", style="dim")
    return text


def _foot(case: Case, seen: tuple[int, int] | None, beyond: bool) -> str:
    kept = "Kept: what a device does beside one on the size that serves best."
    name = case.site.accelerator.name
    if seen is None:
        return kept if case.site.accelerator.kind == "cpu" else f"{kept} No published run on {name} was fitted."
    outside = "; * is outside of that" if beyond else ""
    return f"{kept} Fitted to published runs on {seen[0]:,} to {seen[1]:,} {name}{outside}."


def _size_json(found: Scaling, size: Size) -> dict[str, Any]:
    step, rate, cost = (size.forecast.metrics[name] for name in ("step_time", "tokens_per_s", "cost"))
    return {
        "devices": size.site.devices,
        "step_s": step.value,
        "low_step_s": step.low,
        "high_step_s": step.high,
        "label": str(step.label),
        "metrics": metrics_json(size.forecast),
        "tokens_per_s": rate.value,
        "kept_share": found.kept_share(size),
        "cost_usd": cost.value,
        "lost_to": found.lost_to(size),
        "plan": asdict(size.plan),
    }
