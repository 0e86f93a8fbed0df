"""What nobody stated widens an interval, and moves nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from datahall.base.label import Label
from datahall.case import from_model_and_site
from datahall.case.question import Case
from datahall.compute.numbers import PlanNumbers
from datahall.search.exchanges import exchanges
from datahall.search.rank import search
from datahall.search.why import explain
from datahall.virtual.gradient_plan import exchange_s, exchanged
from datahall.virtual.step_time import step_time
from datahall.virtual.training import forecast
from datahall.virtual.transferred import Transferred, default_calibration

WHOLE = ("step_time", "total_time", "cost", "energy")


def stated(case: Case) -> Case:
    """The same case whose network is somebody's data sheet."""
    provenance = {**case.site.provenance, "scale_out": Label.CATALOGUE}
    return replace(case, site=replace(case.site, provenance=provenance))


def test_an_unstated_network_reaches_to_a_poor_one_and_moves_no_forecast() -> None:
    case = from_model_and_site("llama-3.1-8b", "4x8xA40", tokens=1e9)
    usual, known = explain(search(case)), explain(search(stated(case)))
    for name in (*WHOLE, "transfer"):
        mine, other = usual.metrics[name], known.metrics[name]
        assert (mine.value, mine.low) == (other.value, other.low), name
        assert mine.high > 1.05 * other.high, name
    assert usual.metrics["mfu"].low < known.metrics["mfu"].low
    assert usual.metrics["peak_memory"] == known.metrics["peak_memory"]
    assert any("`site.link`" in note for note in usual.notes)
    assert not any("`site.link`" in note for note in known.notes)
    plan, there = search(case).plan(), on_a_quarter(case)
    step = forecast(there, replace(plan, case_hash=there.hash())).metrics["step_time"].value
    assert usual.metrics["step_time"].high >= step


def on_a_quarter(case: Case) -> Case:
    """The same case on a stated network of a quarter of the rate."""
    poor = replace(case.site.scale_out, bytes_per_s=0.25 * case.site.scale_out.bytes_per_s)
    return replace(stated(case), site=replace(stated(case).site, scale_out=poor))


def test_compressed_and_rarer_exchanges_are_doubted_for_the_network_too() -> None:
    case = from_model_and_site("gpt2", "4x8xA40", tokens=1e9)
    there = on_a_quarter(case)
    offers = {offer.name: offer for offer in exchanges(case)}
    assert len(offers) > 3
    for offer in offers.values():
        poor = forecast(there, replace(offer.plan, case_hash=there.hash())).metrics
        usual = forecast(case, offer.plan).metrics
        for name in ("step_time", "transfer"):
            assert usual[name].high >= poor[name].value, (offer.name, name)
        inputs = default_calibration(there).inputs(there, offer.plan.compute)
        found = exchange_s(there, offer.plan, exchanged(there, offer.plan), inputs.links)
        slow = float(step_time(replace(inputs, gradient_s=found), PlanNumbers.of(offer.plan.compute)).total)
        assert offer.metrics[0].high >= slow, offer.name
    told = {offer.name: offer for offer in exchanges(stated(case))}
    for name, offer in offers.items():
        assert (offer.step_s, offer.metrics[0].low) == (told[name].step_s, told[name].metrics[0].low)


@pytest.mark.parametrize("site", ["8xA40", "64xTPU-v5p"])
def test_devices_that_use_no_network_between_nodes_are_not_doubted_for_it(site: str) -> None:
    case = from_model_and_site("gpt2", site, tokens=1e9)
    usual, known = explain(search(case)), explain(search(stated(case)))
    assert all(usual.metrics[name].high == known.metrics[name].high for name in WHOLE)
    assert not any("`site.link`" in note for note in usual.notes)


@dataclass(frozen=True, slots=True)
class Learnt(Transferred):
    """Constants that runs on this very site have corrected."""

    @property
    def label(self) -> Label:
        return Label.CALIBRATED


def test_runs_of_the_site_say_what_its_network_does() -> None:
    case = from_model_and_site("llama-3.1-8b", "4x8xA40", tokens=1e9)
    shipped = default_calibration(case)
    assert isinstance(shipped, Transferred)
    learnt = Learnt(shipped.constants, shipped.traits, shipped.log_effect, shipped.half_width)
    plan = search(case).plan()
    assert forecast(case, plan, learnt).metrics["cost"].high < forecast(case, plan, shipped).metrics["cost"].high
