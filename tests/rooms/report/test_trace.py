"""The trace: every span once, in microseconds, by worker and component; and the reading of logs it rests on."""

import gzip
import json

import pytest

from datahall.report.data import Span
from datahall.report.folder import load_run
from datahall.report.time_line import loss_curve, one_step, read_logs, spans_of
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


def test_the_steps_components_add_up_and_what_is_hidden_is_no_transfer(run_folder):
    (step,) = [step for step in read_logs(run_folder / "real") if step.number == 5]
    for worker in step.workers:
        mine = [span for span in spans_of([step]) if span.worker == worker.rank]
        for component in ("compute", "transfer", "waiting", "input", "optimiser", "other"):
            drawn = sum(span.seconds for span in mine if span.component == component)
            assert drawn == pytest.approx(worker.seconds[component], abs=1e-9)
        hidden = [span for span in mine if span.component == "overlapped"]
        exchange = next(begin for phase, begin, _ in worker.phases if phase == "exchange")
        assert len(hidden) == 2
        assert max(span.end_s for span in hidden) <= exchange


def test_the_loss_curve_says_where_a_restart_went_on(run_folder):
    (curve,) = loss_curve("plan", read_logs(run_folder / "real"))
    assert curve.steps == tuple(range(120))
    assert curve.resumed_at == (60,)
    assert loss_curve("plan", ()) == ()


def test_a_play_without_logs_has_no_time_line(tmp_path):
    assert read_logs(tmp_path / "nowhere") == ()
