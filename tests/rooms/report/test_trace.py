"""The trace: every span once, in microseconds, by worker and component; and the reading of logs it rests on."""

import gzip
import json

import pytest

from datahall.base.event import Event
from datahall.report.data import Span
from datahall.report.events import losses_of, one_step, spans_of
from datahall.report.folder import load_run
from datahall.report.trace import trace_events, write_trace


def test_trace_has_each_span_once_in_microseconds(run_folder, tmp_path):
    spans = load_run(run_folder).spans
    write_trace(tmp_path / "trace.json.gz", spans)
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    drawn = [entry for entry in trace["traceEvents"] if entry["ph"] == "X"]
    assert len(drawn) == len(spans)
    assert sum(entry["dur"] for entry in drawn) == pytest.approx(1e6 * sum(span.seconds for span in spans), rel=1e-4)
    named = {entry["args"]["name"] for entry in trace["traceEvents"] if entry["ph"] == "M"}
    assert {"worker 0", "worker 1", "compute", "waiting", "transfer"} <= named


def test_the_same_trace_is_the_same_file(run_folder, tmp_path):
    spans = load_run(run_folder).spans
    for name in ("a.json.gz", "b.json.gz"):
        write_trace(tmp_path / name, spans)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert trace_events(()) == {"displayTimeUnit": "ms", "traceEvents": []}


def test_the_step_that_is_drawn_has_all_workers_and_the_median_length():
    lengths = {0: 5.0, 1: 1.0, 2: 1.2}
    spans = [
        Span(worker, "compute", "f", 10.0 * step, 10.0 * step + long, step)
        for step, long in lengths.items()
        for worker in (0, 1)
    ]
    spans.append(Span(0, "compute", "f", 90.0, 91.0, 9))  # a step that only one worker reached
    assert {span.step for span in one_step(spans)} == {2}
    assert one_step([]) == ()


def test_a_repeated_step_counts_once_in_the_loss():
    events = [
        Event(float(i), "step", {"worker": 0, "step": step, "loss": 9.0 - i}) for i, step in enumerate((0, 1, 2, 1, 2))
    ]
    (curve,) = losses_of("plan", events)
    assert curve.steps == (0, 1, 2)
    assert curve.losses == (9.0, 6.0, 5.0)
    assert losses_of("plan", []) == ()


def test_spans_may_give_their_length_instead_of_their_start():
    (span,) = spans_of([Event(5.0, "span", {"component": "input", "seconds": 2.0})])
    assert (span.start_s, span.end_s, span.name) == (3.0, 5.0, "input")
