"""Every time, cost and energy that an answer gives has the interval and the label that `datahall plan` gives it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from datahall.base.errors import NoPlan
from datahall.base.label import Label
from datahall.base.metric import Metric, chance_below, percentile_90
from datahall.base.result import Result
from datahall.case import from_model_and_site, load
from datahall.case.named_site import site_from_text, with_nodes
from datahall.case.question import Case, Goal
from datahall.search.ask import chances, likely_site, link_enough, offer_on, smallest_site
from datahall.search.exchanges import exchanges
from datahall.search.hardware import best_sites
from datahall.search.rank import search
from datahall.search.saving import checkpoint_interval
from datahall.search.scaling import scaling
from datahall.search.why import explain
from datahall.virtual.transferred import default_calibration

DAY_S = 86400.0
CASES = Path(__file__).resolve().parents[3] / "cases"


def planned(case: Case) -> Result:
    """What `datahall plan` forecasts for the best plan of a case."""
    return explain(search(case, default_calibration(case)))


def fastest_step(case: Case) -> Metric:
    """The step of the plan with the shortest one; of plans as good as it, `datahall plan` may take a simpler."""
    ranking = search(case, default_calibration(case))
    return explain(ranking, int(np.argmin(ranking.prices.step_s[ranking.order]))).metrics["step_time"]


def ends(metric: Metric) -> tuple[float, float, float, Label]:
    return metric.value, metric.low, metric.high, metric.label


@pytest.fixture(scope="module")
def hurried() -> Case:
    case = from_model_and_site("llama-3.1-8b", "8xA40", tokens=15e9)
    return replace(case, goal=Goal(deadline_s=9 * DAY_S))


def test_hardware_has_the_intervals_of_its_plans() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA100-80GB-SXM", tokens=1e9)
    sites = [[site_from_text(f"16x{name}")[0]] for name in ("A40", "A100-80GB-SXM", "Gaudi3", "TPU-v5p")]
    for offer in best_sites(case, sites, default_calibration):
        known = planned(replace(case, site=offer.site)).metrics
        found = offer.forecast().metrics
        for name in ("total_time", "cost", "energy"):
            assert ends(found[name]) == ends(known[name]), (offer.site.name, name)
            assert found[name].low < found[name].value < found[name].high
        assert offer.total_s == pytest.approx(found["total_time"].value)


def test_the_smallest_site_has_the_interval_of_its_plan_and_the_chance_that_follows(hurried: Case) -> None:
    offer = smallest_site(hurried, default_calibration(hurried))
    known = planned(replace(hurried, site=offer.site)).metrics["total_time"]
    total = offer.forecast().metrics["total_time"]
    assert ends(total) == ends(known)
    kept = chances(hurried, offer)
    assert kept == {"deadline": chance_below(total, 9 * DAY_S)}
    assert 0.5 < kept["deadline"] < 0.95
    assert chances(replace(hurried, goal=Goal()), offer) == {}


def test_the_likely_site_keeps_its_deadline_at_the_90th_percentile_and_no_smaller_one_does(hurried: Case) -> None:
    calibration = default_calibration(hurried)
    offer = smallest_site(hurried, calibration)
    likely = likely_site(hurried, calibration, offer)
    assert likely is not None
    assert percentile_90(likely.forecast().metrics["total_time"]) <= hurried.goal.deadline_s
    for nodes in range(offer.site.nodes, likely.site.nodes):
        smaller = offer_on(hurried, with_nodes(hurried.site, nodes), calibration)
        assert smaller is None or percentile_90(smaller.forecast().metrics["total_time"]) > hurried.goal.deadline_s
    easy = replace(hurried, goal=Goal(deadline_s=1000 * DAY_S))
    assert likely_site(easy, calibration, smallest_site(easy, calibration)).site.nodes == 1  # pyright: ignore[reportOptionalMemberAccess]


def test_no_number_of_nodes_may_be_likely(hurried: Case) -> None:
    calibration = default_calibration(hurried)
    fastest = smallest_site(hurried, calibration)
    while True:  # towards a deadline that hardly any site keeps
        goal = replace(hurried.goal, deadline_s=0.7 * fastest.total_s)
        try:
            fastest = smallest_site(replace(hurried, goal=goal), calibration, least=fastest.site.nodes)
        except NoPlan:
            break
    last = replace(hurried, goal=Goal(deadline_s=1.001 * fastest.total_s))
    assert likely_site(last, calibration, fastest) is None


def test_the_step_of_each_link_has_the_interval_of_the_plan_on_it() -> None:
    case = from_model_and_site("llama-3.1-8b", "4x8xA40", tokens=1e9)
    found = link_enough(case, default_calibration(case))
    assert ends(found.now.step) == ends(fastest_step(case))
    twice = next(step for step in found.steps if step.bytes_per_s == 2 * found.now.bytes_per_s)
    link = replace(case.site.scale_out, bytes_per_s=twice.bytes_per_s)
    stated = replace(case.site, scale_out=link, provenance={**case.site.provenance, "scale_out": Label.CATALOGUE})
    assert ends(twice.step) == ends(fastest_step(replace(case, site=stated)))
    assert all(step.step.low < step.step_s < step.step.high for step in found.steps)
    assert found.endless.low < found.endless_s < found.endless.high


def test_a_checkpoint_has_the_intervals_of_the_plan_that_writes_it() -> None:
    case = from_model_and_site("llama-3.1-70b", "8xdgx-a100", tokens=1e12)
    found, known = checkpoint_interval(search(case)), planned(case).metrics
    written, held, slowed, interval, _ = found.metrics
    names = ("checkpoint_write", "checkpoint", "checkpoint_slowing")
    for metric, name in zip((written, held, slowed), names, strict=True):
        assert ends(metric) == ends(known[name])
    assert (found.write_s, found.stall_s, found.slowed_s) == (written.value, held.value, slowed.value)
    assert interval.low < found.daly_s < interval.high
    assert interval.label is Label.ASSUMED  # as how often devices fail is
    for (_, share), lost in zip(found.lost_shares, found.lost, strict=True):
        assert lost.low < share == lost.value < lost.high


def test_how_often_devices_fail_is_half_to_double_where_nobody_stated_it() -> None:
    case = from_model_and_site("gpt2", "8xA40", tokens=1e9)
    site = replace(case.site, provenance={**case.site.provenance, "failures_per_device_s": Label.CATALOGUE})
    assumed, stated = (checkpoint_interval(search(one)) for one in (case, replace(case, site=site)))
    between = assumed.metrics[-1]
    assert (between.name, between.label) == ("between_failures", Label.ASSUMED)
    assert (between.low, between.high) == (between.value / 2, 2 * between.value)
    assert stated.metrics[-1].low == stated.metrics[-1].high == between.value
    rare, known = assumed.lost[-1], stated.lost[-1]  # so rarely that writing hardly matters
    assert rare.value == known.value
    assert rare.high / rare.value == pytest.approx(2.0, rel=0.05)
    assert rare.value / rare.low == pytest.approx(2.0, rel=0.05)
    assert known.high / known.value < 1.05
    one, other = assumed.metrics[3], stated.metrics[3]
    assert one.low < other.low < one.value == other.value < other.high < one.high


def test_sizes_and_exchanges_have_intervals_too() -> None:
    case = from_model_and_site("gpt2-xl", "4xA40", tokens=1e10)
    for size in scaling(case, default_calibration(case)).sizes:
        known = planned(replace(case, site=size.site)).metrics
        assert all(ends(size.forecast.metrics[name]) == ends(known[name]) for name in ("step_time", "cost", "energy"))
    for offer in exchanges(load(CASES / "slow-link.yaml")):
        step, _, equal = offer.metrics
        assert (step.value, equal.value) == (offer.step_s, offer.equal_loss_s)
        assert all(metric.low < metric.value < metric.high for metric in offer.metrics)
        assert equal.high / equal.value == pytest.approx(step.high / step.value)


def test_better_chances_come_with_later_deadlines() -> None:
    metric = Metric("total_time", "seconds", 10.0, 7.0, 15.0, Label.CALIBRATED)
    known = {5.0: 0.0, 7.0: 0.05, 10.0: 0.5, percentile_90(metric): 0.9, 15.0: 0.95, 100.0: 1.0}
    for bound, share in known.items():
        assert chance_below(metric, bound) == pytest.approx(share, abs=1e-3), bound
    assert all(one < other for one, other in pairwise([chance_below(metric, bound) for bound in (6.0, 8.0, 12.0)]))
    exact = Metric("total_time", "seconds", 10.0, 10.0, 10.0, Label.MEASURED)
    assert (chance_below(exact, 9.0), chance_below(exact, 11.0)) == (0.0, 1.0)
