"""Write the page and the trace of a run into its folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from datahall.base.whole_file import write_text
from datahall.report.data import ReportData
from datahall.report.folder import load_run
from datahall.report.page import render
from datahall.report.trace import write_trace

PAGE = "report.html"
TRACE = "trace.json.gz"


def write_report(folder: Path, out: Path | None = None, data: ReportData | None = None) -> Path:
    """Write report.html (to `out` if given) and, where workers left logs, trace.json.gz; returns the page's path.

    `data` is what to show; without it the folder is read.
    """
    shown = data or load_run(folder)
    page = out or folder / PAGE
    write_text(page, render(shown))
    if shown.spans:
        write_trace(page.with_name(TRACE), shown.spans)
    return page
