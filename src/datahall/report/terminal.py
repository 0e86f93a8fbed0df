"""Tables for the terminal: forecast, comparison, held-out score, plans; they fit 100 columns, also through a pipe.

Each function makes a Rich renderable from values and prints nothing itself, `show` prints.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from datahall.base.result import Result
from datahall.base.score import HeldOutScore
from datahall.base.units import human, human_interval
from datahall.report.comparison import Comparison, ComponentRow
from datahall.report.data import ChoiceAgain, ConsideredPlan, Memory
from datahall.report.words import signed_percent, words

WIDTH = 100
_LABEL_STYLES = {"measured": "bold", "calibrated": "blue", "transferred": "magenta", "catalogue": "", "assumed": "dim"}


def show(*renderables: RenderableType, console: Console | None = None) -> None:
    """Print renderables, at most 100 columns wide; where nobody looks on without colours and blanks at line ends."""
    target = console_of(console or Console(highlight=False))
    with target.capture() as captured:
        for renderable in renderables:
            target.print(renderable)
    text = captured.get()
    target.file.write(text if target.is_terminal else "".join(f"{line.rstrip()}\n" for line in text.splitlines()))


def console_of(console: Console) -> Console:
    """`console`, at most 100 columns wide, and 100 where nobody looks on."""
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    return console


def plain_table(*headers: str) -> Table:
    """A table without lines; every column but the first is right-aligned."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def forecast_table(forecast: Result, title: str = "Forecast") -> RenderableType:
    """What a forecast says: value, 90 % interval and origin of each metric; then its notes."""
    table = _table(title, "component", "forecast", "90 % interval", "from")
    for metric in forecast.metrics.values():
        table.add_row(
            Text(words(metric.name)),
            human(metric.value, metric.unit),
            human_interval(metric.low, metric.high, metric.unit),
            _label(str(metric.label)),
        )
    return Group(table, *(_note(note) for note in forecast.notes))


def comparison_table(comparison: Comparison) -> RenderableType:
    """Forecast beside measurement, the bottleneck and the verdict with its reasons."""
    table = _table("Forecast and measurement", "component", "forecast", "90 % interval", "measured", "error", "judged")
    for row in comparison.components:
        table.add_row(
            Text(words(row.name)),
            human(row.forecast, row.unit),
            human_interval(row.low, row.high, row.unit),
            human(row.measured, row.unit),
            signed_percent(row.error_share),
            _judged(row),
        )
    verdict = Text.assemble(
        "verdict: ", (comparison.verdict.word, "bold green" if comparison.verdict.holds else "bold red")
    )
    reasons = [_note(reason) for reason in comparison.verdict.reasons]
    binds = [Text(comparison.bottleneck.sentence)] if comparison.bottleneck.sentence else []
    parts: list[RenderableType] = [table, *binds, verdict, *reasons]
    if comparison.machine:
        machine = comparison.machine
        load = f"load {machine.load_before:.2f} before, {machine.load_during:.2f} during"
        parts.append(_note(f"{machine.cores} cores, {load}; noise floor {100 * comparison.noise_share:.1f} %"))
    if comparison.drift:
        parts.append(_note(comparison.drift.sentence))
    return Group(*parts)


def counts_table(comparison: Comparison) -> RenderableType:
    """Counts on both sides; those that datahall decides must be equal."""
    table = _table("Counts", "count", "forecast", "measured", "equal", "decided by")
    for count in comparison.counts:
        equal = "-" if count.equal is None else "yes" if count.equal else "no"
        wrong = count.equal is False and count.decided_by == "datahall"
        table.add_row(
            Text(words(count.name)),
            "-" if count.forecast is None else f"{count.forecast:,}",
            "-" if count.measured is None else f"{count.measured:,}",
            Text(equal, style="bold red" if wrong else ""),
            Text(count.decided_by),
        )
    return table


def memory_table(memory: Memory) -> RenderableType:
    """One process's memory above idle: the forecast by item, and the measured peak of the fullest worker."""
    total, peak = sum(memory.items.values()), max(memory.measured_peak_bytes, default=0.0)
    table = _table("Memory of a process above idle", "item", "forecast", "measured", "error")
    for name, size in memory.items.items():
        table.add_row(Text(words(name)), human(size, "bytes"), "", "")
    error = signed_percent((total - peak) / peak if peak else None)
    table.add_row(Text("all, at the peak"), human(total, "bytes"), human(peak, "bytes"), error, style="bold")
    return table


def heldout_table(score: HeldOutScore) -> RenderableType:
    """How the forecast did on configurations that the fit has not seen, before and after calibration."""
    table = _table(f"{score.n} unseen configurations", "quantity", "before", "after")
    table.add_row(
        "median error", f"{100 * score.median_error_share_before:.1f} %", f"{100 * score.median_error_share:.1f} %"
    )
    table.add_row("interval score (small is good)", f"{score.interval_score_before:.3f}", f"{score.interval_score:.3f}")
    table.add_row(
        "inside the 90 % interval", "", f"{100 * score.coverage_share:.0f} % (p {score.coverage_p_value:.2f})"
    )
    table.add_row("median half width", "", f"{100 * score.median_half_width_share:.1f} %")
    return Group(table, Text(score.sentence))


def plans_table(considered: Sequence[ConsideredPlan], limit: int = 8) -> RenderableType:
    """The chosen plan and the next best ones, with why they lost."""
    table = _table("Plans", "plan", "step", "memory", "outcome")
    ordered = sorted(considered, key=lambda plan: (not plan.chosen, not plan.fits, plan.step_time_s))
    for plan in ordered[:limit]:
        state = "chosen" if plan.chosen else "" if plan.fits else "does not fit"
        outcome = ": ".join(part for part in (state, plan.why) if part)
        style = "bold" if plan.chosen else "" if plan.fits else "dim"
        table.add_row(
            Text(plan.name),
            human(plan.step_time_s, "seconds"),
            human(plan.memory_bytes, "bytes"),
            Text(outcome),
            style=style,
        )
    rest = len(ordered) - limit
    return Group(table, *([_note(f"and {rest:,} more")] if rest > 0 else []))


def again_table(again: ChoiceAgain) -> RenderableType:
    """The plan that the calibrated rates choose beside its rivals."""
    table = _table("Chosen again", "plan", "part", "forecast", "90 % interval", "measured", "error")
    for one in again.contenders:
        table.add_row(
            Text(one.name),
            Text(one.role),
            human(one.forecast_s, "seconds"),
            human_interval(one.low_s, one.high_s, "seconds"),
            human(one.measured_s, "seconds"),
            signed_percent(one.error_share),
        )
    return Group(table, Text(again.sentence))


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    text_columns = {
        "component",
        "plan",
        "outcome",
        "judged",
        "from",
        "equal",
        "decided by",
        "count",
        "quantity",
        "item",
    }
    for column in columns:
        is_text = column in text_columns
        table.add_column(column, justify="left" if is_text else "right", header_style="dim", no_wrap=not is_text)
    return table


def _label(label: str) -> Text:
    return Text(label, style=_LABEL_STYLES.get(label, ""))


def _judged(row: ComponentRow) -> Text:
    if row.in_noise:
        return Text("within noise", style="green")
    if row.within_interval:
        return Text("within interval", style="green")
    return Text("outside", style="bold red")


def _note(text: str) -> Text:
    return Text(f"  {text}", style="dim")
