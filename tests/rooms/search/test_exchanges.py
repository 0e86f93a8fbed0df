"""Which exchange pays for a case: rarer on a slow link, plain beside none on a fast one."""

import json
from pathlib import Path

from click.testing import CliRunner

from datahall.case import load
from datahall.search.exchanges import exchanges
from datahall.ui.plan import plan

CASE = Path(__file__).parents[3] / "cases" / "slow-link.yaml"


def test_on_the_slow_link_rarer_exchange_reaches_the_loss_first():
    offers = exchanges(load(CASE))
    plain = next(offer for offer in offers if offer.name == "plain")
    assert offers[0].plan.network.local_steps > 1
    assert plain.step_s > 2 * offers[0].step_s
    assert plain.handed_bytes == 4 * load(CASE).model.parameters()


def test_on_a_fast_link_plain_is_as_good_as_any():
    offers = exchanges(load(CASE, ("site.link.rate=100 Gb/s", "site.link.latency=1e-6")))
    plain = next(offer for offer in offers if offer.name == "plain")
    assert plain.equal_loss_s <= 1.01 * offers[0].equal_loss_s


def test_the_question_is_answered_as_json():
    done = CliRunner().invoke(plan, [str(CASE), "--ask", "exchange", "--json"])
    assert done.exit_code == 0, done.output
    offers = json.loads(done.output)["offers"]
    assert {offer["name"] for offer in offers} >= {"plain", "bf16", "local SGD 16"}
    for offer in offers:
        known = {metric["name"]: metric for metric in offer["metrics"]}
        assert set(known) == {"step_time", "transfer", "equal_loss_time"}
        assert known["equal_loss_time"]["value"] == offer["equal_loss_s"]
        assert all(metric["label"] for metric in known.values())
