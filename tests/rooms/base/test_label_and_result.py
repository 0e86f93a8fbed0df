"""Labels order origins; results survive JSON."""

import json

import numpy as np

from datahall.base.event import Event, read_events
from datahall.base.label import Label, weakest
from datahall.base.metric import Metric, exactly, overlaps
from datahall.base.result import Result, result_from_json
from datahall.base.step_table import Component, Row, StepTable


def test_weakest_label_wins():
    assert weakest([Label.MEASURED, Label.CATALOGUE, Label.CALIBRATED]) is Label.CATALOGUE
    assert weakest([]) is Label.MEASURED
    assert Label.of("transferred") is Label.TRANSFERRED
    assert str(Label.ASSUMED) == "assumed"


def test_result_survives_json():
    metrics = {
        "compute": Metric("compute", "seconds", 1.5, 1.0, 2.0, Label.CALIBRATED),
        "startup": exactly("startup", "seconds", 3.0),
    }
    result = Result("virtual", metrics, {"samples": 41_000_000_000_000_000_000}, ("a note",))
    assert result_from_json(result.to_json()) == result


def test_a_log_cut_in_the_middle_of_a_line_reads_to_its_last_whole_line(tmp_path):
    path = tmp_path / "events.jsonl"
    events = [Event(0.5, "step", {"step": 1, "rank": 0}), Event(0.7, "step", {"step": 2, "rank": 0})]
    path.write_text("".join(event.to_line() + "\n" for event in events) + '{"time_s": 0.9, "ki')
    assert list(read_events(path)) == events


def test_step_table_counts_exactly_beyond_64_bits():
    table = StepTable(
        (Row("mlp", Component.COMPUTE, flops=4 * 10**19), Row("exchange", Component.TRANSFER, bytes=7, messages=1))
    )
    assert table.total_flops() == 4 * 10**19
    assert table.total_flops(Component.OPTIMISER) == 0
    assert table.total_bytes(Component.TRANSFER) == 7
    assert table.row("exchange").messages == 1


def test_neighbours_whose_intervals_overlap_are_told():
    ends = [(1.0, 3.0), (2.0, 4.0), (5.0, 6.0), (0.5, 5.5)]
    metrics = [Metric("step_time", "seconds", (low + high) / 2, low, high, Label.MEASURED) for low, high in ends]
    assert overlaps(metrics) == [False, True, False, True]
    assert overlaps(metrics[:1]) == [False]
    assert overlaps([]) == []


def test_neighbours_with_ends_of_arrays_are_told_in_plain_values():
    ends = np.array([1.0, 2.0])
    metrics = [Metric("step_time", "seconds", low, low, low + 2, Label.MEASURED) for low in ends]
    assert json.dumps(overlaps(metrics)) == "[false, true]"
