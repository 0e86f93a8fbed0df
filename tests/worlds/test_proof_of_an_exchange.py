"""A small proof of each exchange that is rarer or smaller than plain gradients, to its end."""

from dataclasses import asdict
from pathlib import Path

import pytest

from datahall.case import load
from datahall.prove import seal
from datahall.prove.effort import Effort
from datahall.prove.folder import read_json
from datahall.prove.loop import Settings, prove
from datahall.report.folder import load_run
from datahall.ui.given_plan import network_of

pytestmark = pytest.mark.soak  # a proof each, of some forty seconds
TINY = Effort(True, 1, 0.3, 8, 8, 4, 3, 2, (), 0)
SMALL = ("application.tokens=16 Ki tokens", "model.inline.hidden=64", "model.inline.layers=2", "model.inline.heads=2",
         "model.inline.kv_heads=1", "model.inline.ffn=160")  # fmt: skip


@pytest.mark.parametrize(
    "exchange",
    ["local_steps=4", "compression=bf16", "compression=int8", "compression=top-k", "compression=powersgd"],
)
def test_it_is_forecast_counted_and_chosen_again(exchange, tmp_path):
    case = load(Path(__file__).parents[2] / "cases" / "first.yaml", SMALL)
    network = network_of((exchange,))
    heard = []
    done = prove(case, Settings(tmp_path / "proof", TINY, heard.append, network=network))
    assert seal.check(done.folder) == done.comparison.seal_sha256
    chosen = read_json(done.folder / "plan.json")
    several = chosen["compute"]["data"] > 1
    assert (chosen["network"] == asdict(network)) is several
    counts = {row.name: row for row in done.comparison.counts}
    assert [row.name for row in counts.values() if row.decided_by == "datahall" and row.equal is False] == []
    if several:
        assert counts["collective_bytes"].measured > 0
    assert done.comparison.parity.holds  # of the same split with plain gradients
    assert done.recovery.holds
    again = read_json(done.folder / "again" / "forecast.json")
    used = [entry["plan"]["network"] for entry in again.values() if entry["plan"]["compute"]["data"] > 1]
    assert used
    assert all(one == asdict(network) for one in used)
    assert load_run(done.folder).comparison is not None
    assert "transfer" in done.page.read_text()
