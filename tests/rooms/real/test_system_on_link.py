"""The case of the slow link, run on two hosts with that link: no faster than its rate, bytes as foretold."""

from dataclasses import replace
from pathlib import Path

import pytest

from datahall.case import load
from datahall.network.execute_namespaces import LinkShape, missing
from datahall.network.plan import NetworkPlan
from datahall.real import training
from datahall.ui.given_plan import given_plan

pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(missing()), reason=missing())]
STEPS = 6


@pytest.mark.parametrize("network", [NetworkPlan(), NetworkPlan(local_steps=2)])
def test_the_slow_link_case_runs_on_its_link(tmp_path, network):
    case = load(Path(__file__).parents[3] / "cases" / "slow-link.yaml")
    plan = replace(given_plan(case, 2, None, 0), network=network)
    link = LinkShape(case.site.scale_out.bytes_per_s * 8, 2 * case.site.scale_out.latency_s)
    run = training.run(case, plan, tmp_path, steps=STEPS, link=link, count_flops=False)
    whole = 4 * case.model.parameters()
    assert run.result.counts["collective_bytes"] == STEPS // network.local_steps * whole
    least_s = whole / network.local_steps / case.site.scale_out.bytes_per_s  # a link is never faster than it is
    assert run.result.metrics["transfer"].value > 0.95 * least_s
