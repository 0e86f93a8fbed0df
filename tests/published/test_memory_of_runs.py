"""Peak memory of published torchtitan runs (without a pipeline) against the itemised forecast."""

import numpy as np

from datahall.calibrate.design import design
from datahall.calibrate.shipped import shipped_runs
from datahall.compute.memory import memory
from datahall.virtual.pricing import memory_habits


def test_memory_is_within_five_percent_of_what_torchtitan_published():
    runs = [run for run in shipped_runs()[0] if run.memory_bytes and run.group == "torchtitan" and run.quality == "A"]
    arrays = design(runs)
    items = memory(arrays.counts, arrays.sequence, arrays.plans, memory_habits(arrays.setting))
    error = np.abs(arrays.mean(items.total) / np.array([run.memory_bytes for run in runs]) - 1.0)
    assert len(runs) == 12
    assert np.mean(error) < 0.05
    assert np.max(error) < 0.08
