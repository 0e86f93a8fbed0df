"""Terminal tables: within 100 columns, through a pipe, with every component and no lost name."""

import io

from rich.console import Console

from datahall.report import terminal
from datahall.report.folder import load_run


def _piped(*renderables) -> str:
    stream = io.StringIO()
    terminal.show(*renderables, console=Console(file=stream, width=500))
    return stream.getvalue()


def test_all_tables_fit_a_hundred_columns_and_lose_nothing(run_folder):
    data = load_run(run_folder)
    text = _piped(
        terminal.forecast_table(data.forecast),
        terminal.comparison_table(data.comparison),
        terminal.counts_table(data.comparison),
        terminal.heldout_table(data.heldout),
        terminal.plans_table(data.considered),
    )
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    assert "\x1b" not in text
    for row in data.comparison.components:
        assert row.name.replace("_", " ") in text
    for word in ("verdict: holds", "compute binds", "22,649,241,600,000", "and 16 more"):
        assert word in text


def test_markup_in_names_is_printed_as_it_is(run_folder):
    plan = load_run(run_folder).considered[0]
    odd = type(plan)("[bold]x[/bold]", 1.0, 2.0, why="[red]no[/red]")
    assert "[bold]x[/bold]" in _piped(terminal.plans_table([odd]))
