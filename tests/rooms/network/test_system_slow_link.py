"""One slow link, one seed, few steps: bytes by the interface's counter within 2 % of the sealed forecast."""

import sys
from pathlib import Path

import pytest

from datahall.network.choose import Candidate, options
from datahall.network.execute_namespaces import hosts, missing

pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(missing()), reason=missing())]
pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import slow_links  # noqa: E402

NAMES = ("plain", "bf16", "int8", "local SGD 16")


def test_bytes_on_the_wire_are_those_of_the_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_links, "TARGET", 0.0)  # never reached: a run of exactly so many steps
    monkeypatch.setattr(slow_links, "MOST_STEPS", 16)
    shape = slow_links.LINKS[1][1]
    with hosts(2, shape) as made, slow_links.workers(made) as both:
        link, found = slow_links.probe(both, made, shape)
        candidates = [Candidate(name, slow_links.PLANS[name], 1.0, found["codec_s"][name]) for name in NAMES]
        forecasts = options(slow_links.SHAPES, 2, link, found["compute_s"], candidates)
        shut = slow_links.seal(forecasts)
        runs = {name: slow_links._run(both, made, slow_links.PLANS[name], 1) for name in NAMES}
    assert shut == slow_links.seal(forecasts)
    for forecast in forecasts:
        run = runs[forecast.candidate.name]
        assert run["equal_ranks"]
        assert run["steps"] == 16
        assert run["wire_bytes"] == pytest.approx(forecast.wire_bytes, rel=0.02)
        assert run["seconds"] >= 16 * forecast.wire_bytes * 8 / shape.bits_per_s * 0.95  # no faster than its rate
