"""What more devices bring: sizes of a site, what a device keeps, and where it stops paying."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from datahall.base.errors import NoPlan
from datahall.case import from_model_and_site
from datahall.search.rank import search
from datahall.search.scaling import WORTH_SHARE, fitted_devices, scaling
from datahall.search.why import step_items
from datahall.ui.plan import plan
from datahall.virtual.transferred import default_calibration

CASES = Path(__file__).resolve().parents[3] / "cases"


def test_larger_sites_are_faster_and_their_devices_do_less() -> None:
    case = from_model_and_site("gpt2-xl", "4xA40", tokens=1e10)
    found = scaling(case, default_calibration(case))
    assert [size.site.devices for size in found.sizes] == [1, 2, 4, 8, 16, 32, 64]
    steps, kept = (
        [size.forecast.metrics["step_time"].value for size in found.sizes],
        [found.kept_share(size) for size in found.sizes],
    )
    assert steps == sorted(steps, reverse=True)
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 1.0
    assert kept[-1] < WORTH_SHARE
    assert found.worth is [size for size, share in zip(found.sizes, kept, strict=True) if share >= WORTH_SHARE][-1]
    assert found.lost_to(found.sizes[-1]) == "transfer"
    for size in found.sizes:
        alone = search(replace(case, site=size.site))
        assert alone.compute(0) == size.plan
        fixed_s = float(step_items(alone.case, size.plan, alone.calibration).fixed) * size.site.devices
        assert sum(size.spent_s.values()) + fixed_s == pytest.approx(size.device_s, rel=1e-9)


def test_a_size_that_is_short_of_memory_serves_worse_than_a_larger_one() -> None:
    case = from_model_and_site("llama-3.1-70b", "8xdgx-h100", tokens=1e12)
    found = scaling(case, default_calibration(case))
    smallest = found.sizes[0]
    assert smallest.plan.recompute != "none" or smallest.plan.zero_stage == 0
    assert found.kept_share(smallest) < WORTH_SHARE < found.kept_share(found.sizes[1])
    assert found.lost_to(smallest) == "compute"


def test_a_processor_is_not_made_larger_than_it_is() -> None:
    told = CliRunner().invoke(plan, [str(CASES / "first.yaml"), "--ask", "scaling", "--json"], catch_exceptions=False)
    said = json.loads(told.stdout)
    assert [size["devices"] for size in said["sizes"]] == [1, 2]
    assert said["fitted_devices"] is None


def test_the_range_of_published_runs_is_said() -> None:
    assert fitted_devices("H100-SXM") == (8, 16384)
    told = CliRunner().invoke(plan, ["--model", "llama-3.1-8b", "--site", "4xH100-SXM", "--ask", "scaling"])
    assert "8 to 16,384 H100-SXM; * is outside of that" in " ".join(told.output.split())
    assert "4*" in told.output


def test_a_model_that_fits_no_size_is_refused() -> None:
    case = from_model_and_site("deepseek-v3", "1xA40", tokens=1e10)
    with pytest.raises(NoPlan, match="no size"):
        scaling(case, default_calibration(case))
