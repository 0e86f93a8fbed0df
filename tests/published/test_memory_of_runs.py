"""Peak memory of published runs against the itemised forecast: what torchtitan measured, and that what ran fits."""

import re

import numpy as np
import pytest

from datahall.calibrate.design import design
from datahall.calibrate.shipped import shipped_runs
from datahall.catalog import published_runs


def test_memory_is_within_five_percent_of_what_torchtitan_published():
    runs = [run for run in shipped_runs()[0] if run.memory_bytes and run.group == "torchtitan" and run.quality == "A"]
    error = np.abs(design(runs).peak_bytes() / np.array([run.memory_bytes for run in runs]) - 1.0)
    assert len(runs) == 12
    assert np.mean(error) < 0.05
    assert np.max(error) < 0.08


@pytest.mark.parametrize(
    ("group", "most_over"), [("llm-foundry", 0), ("maxtext", 4), ("megatron-bridge", 7), ("vtrain-multi", 0)]
)
def test_what_ran_is_forecast_to_fit(group: str, most_over: int):
    clear = {
        row["id"]
        for row in published_runs.rows()
        if row["recompute"] and not re.search(r"offload|some|mostly| or |modules", row["recompute"])
    }
    runs = [run for run in shipped_runs()[0] if run.group == group and run.key in clear]
    filled = design(runs).peak_bytes() / np.array([run.accelerator.memory_bytes for run in runs])
    assert np.sum(filled > 1.0) <= most_over
    assert np.max(filled) < 1.1
    assert np.max(filled) > 0.6  # and none of it by forecasting too little: people fill their devices
