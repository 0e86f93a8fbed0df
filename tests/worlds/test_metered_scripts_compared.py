"""Each script of cases/metered.py beside a plan of cases/metered.yaml: the three ways that the pages offer."""

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from datahall.ui.compare import compare_log
from datahall.ui.plan import plan

pytest.importorskip("transformers")
CASES = Path(__file__).parents[2] / "cases"


@pytest.fixture(scope="module")
def scripts():
    spec = importlib.util.spec_from_file_location("metered", CASES / "metered.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("way", ["loop", "trainer", "lightning"])
def test_the_script_is_laid_beside_its_plan(way, scripts, tmp_path, monkeypatch):
    pytest.importorskip({"trainer": "accelerate", "lightning": "lightning.pytorch"}.get(way, "torch"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    _invoke(plan, CASES / "metered.yaml", "--out", tmp_path / "plan.json")
    seen = getattr(scripts, way)(str(tmp_path / "mine"))
    told = json.loads(_invoke(compare_log, "--log", tmp_path / "mine", tmp_path / "plan.json", "--json"))
    counts = {row["name"]: (row["forecast"], row["measured"]) for row in told["counts"]}
    for name in ("steps", "samples", "tokens", "matmul_flops", "attention_flops", "collective_bytes"):
        assert counts[name][0] == counts[name][1] == seen.counts[name], name
    seconds = {row["name"]: row["measured"] for row in told["components"]}
    assert seconds["compute"] > seconds["optimiser"] > 0  # not that the one is taken for the other


def test_a_plan_of_other_workers_is_refused(scripts, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    _invoke(plan, CASES / "metered.yaml", "--set", "site.devices_per_node=2", "--out", tmp_path / "plan.json")
    if json.loads((tmp_path / "plan.json").read_text())["plan"]["compute"]["data"] == 1:
        pytest.skip("one worker is as good here")
    scripts.loop(str(tmp_path / "mine"))
    done = CliRunner().invoke(compare_log, ["--log", str(tmp_path / "mine"), str(tmp_path / "plan.json")])
    assert "this loop ran as 1" in str(done.exception)


def _invoke(command, *words):
    done = CliRunner().invoke(command, [str(word) for word in words], standalone_mode=False)
    assert done.exception is None, done.output
    return done.stdout
