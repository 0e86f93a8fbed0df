"""The workers' time lines as a trace that Perfetto and chrome://tracing open.

Trace Event Format, complete events ("X") in microseconds; one process a worker, one thread a component.  The file is
compressed with gzip, which both viewers read.  Nothing is left out or merged.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datahall.base.step_table import Component
from datahall.base.whole_file import write_bytes
from datahall.report.data import Span

_LANES = {name: lane for lane, name in enumerate((*map(str, Component), "overlapped", "agreeing", "other"))}


def trace_events(spans: Sequence[Span]) -> dict[str, Any]:
    """The trace as plain JSON values."""
    entries: list[dict[str, Any]] = []
    for worker in sorted({span.worker for span in spans}):
        entries.append(_name("process_name", worker, 0, f"worker {worker}"))
        for component in sorted({span.component for span in spans if span.worker == worker}, key=_lane):
            entries.append(_name("thread_name", worker, _lane(component), component))
    for span in spans:
        entries.append(
            {
                "ph": "X",
                "name": span.name,
                "cat": span.component,
                "pid": span.worker,
                "tid": _lane(span.component),
                "ts": round(1e6 * span.start_s, 1),
                "dur": round(1e6 * span.seconds, 1),
                "args": {"step": span.step},
            }
        )
    return {"displayTimeUnit": "ms", "traceEvents": entries}


def write_trace(path: Path, spans: Sequence[Span]) -> None:
    """Write the trace to `path` (usually trace.json.gz), whole or not at all; WorldFailed if it cannot be written."""
    text = json.dumps(trace_events(spans), separators=(",", ":")).encode()
    write_bytes(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def _lane(component: str) -> int:
    return _LANES.get(component, len(_LANES))


def _name(kind: str, worker: int, lane: int, text: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": worker, "tid": lane, "args": {"name": text}}
