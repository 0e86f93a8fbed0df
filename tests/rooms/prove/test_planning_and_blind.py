"""Local plans: all that divide, ranked by the goal, refused when nothing fits; disturbances add what they say."""

from dataclasses import replace

import pytest

from datahall.base.errors import NoPlan
from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.prove import planning
from datahall.prove.blind import Trial, disturbance, summary
from datahall.virtual.calibration import Uncalibrated


@pytest.fixture
def case():
    site = replace(guessed_site()[0], devices_per_node=2)
    return Case("first", ModelShape("lm", 4, 256, 8, 4, 32, 704, 256), Training(16 * 128 * 40, 16, 128), site, Goal())


def priced(case):
    return planning.price(case, planning.candidates(case, ("fp32", "bf16")), lambda _case, _compute: Uncalibrated())


def test_every_plan_uses_the_whole_global_batch_and_no_more_threads_than_cores(case):
    plans = planning.candidates(case, ("fp32", "bf16"))
    assert {plan.compute.data for plan in plans} == {1, 2}
    assert all(plan.compute.global_batch == 16 for plan in plans)
    assert all(plan.compute.data * plan.compute.threads <= 2 for plan in plans)


def test_the_best_is_first_and_the_others_say_why_they_lost(case):
    ranked = priced(case)
    totals = [one.forecast.metrics["total_time"].value for one in ranked if one.fits]
    assert totals == sorted(totals)
    shown = planning.considered(ranked)
    assert shown[0].chosen
    assert all(one.why for one in shown[1:])
    assert "slower" in planning.what_would_flip(ranked)


def test_no_plan_when_nothing_fits_or_the_deadline_is_too_near(case):
    small = replace(case.site, accelerator=replace(case.site.accelerator, memory_bytes=1e6))
    with pytest.raises(NoPlan, match="fits on this machine by no plan") as caught:
        planning.best(replace(case, site=small), priced(replace(case, site=small)))
    assert caught.value.reasons
    hurried = replace(case, goal=Goal(deadline_s=1e-3))
    thrifty = replace(case, goal=Goal(energy_j=1e-3))
    with pytest.raises(NoPlan, match=r"the thriftiest plan draws .*J, the bound is 0.001 J"):
        planning.best(thrifty, priced(thrifty))
    with pytest.raises(NoPlan, match="deadline"):
        planning.best(hurried, priced(hurried))


@pytest.mark.parametrize(
    ("kind", "field"), [("slow-link", "latency_s"), ("slow-input", "latency_s"), ("slow-worker", "share")]
)
def test_a_larger_dose_disturbs_more(case, kind, field):
    chosen = next(one for one in priced(case) if one.plan.compute.data == 2)
    small, large = (disturbance(kind, dose, chosen.forecast, chosen.plan) for dose in (0.5, 1.5))
    assert getattr(large, field) == pytest.approx(3 * getattr(small, field))


def test_a_control_is_right_only_when_nothing_is_named():
    trials = [Trial("", 0.0, "", 0.0), Trial("", 0.0, "input", 0.1), Trial("slow-disk", 1.5, "checkpoint", 0.2)]
    assert [trial.right for trial in trials] == [True, False, True]
    assert summary(trials) == [(0.0, 1, 2), (1.5, 1, 1)]
