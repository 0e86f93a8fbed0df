"""The case with a model of the user's own runs, and the pages' commands exist."""

import re
from pathlib import Path

import pytest

from datahall.base.errors import Refused
from datahall.case.door import load
from datahall.real import training
from datahall.ui.cli import VERBS, main
from datahall.ui.given_plan import given_plan

ROOT = Path(__file__).parents[2]


def test_the_case_with_an_own_model_trains_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    case = load(ROOT / "cases" / "own-model.yaml")
    plan = given_plan(case, workers=1, micro_batch=8, checkpoint_every=0)
    run = training.run(case, plan, tmp_path / "run", steps=8, import_paths=[str(ROOT / "cases")])
    assert run.losses[-1] < run.losses[0] - 0.3
    assert run.result.counts["attention_flops"] == 0
    assert "validation_loss" in run.metrics


@pytest.mark.parametrize("page", ["own-training.md", "real-runs.md"])
def test_the_pages_commands_exist(page):
    text = (ROOT / "docs" / page).read_text()
    verbs = set(re.findall(r"^    datahall ([a-z-]+)", text, re.MULTILINE))
    assert verbs
    assert verbs <= set(VERBS) | {"prove"}


def test_gpu_check_is_refused_without_a_gpu(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit) as ended:
        main(["gpu-check", "--out", str(tmp_path / "out.json")])
    assert ended.value.code == Refused.exit_code
    assert "no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
