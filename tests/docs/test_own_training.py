"""The case with a model of the user's own runs, and the pages' commands exist."""

import re
from pathlib import Path

import pytest

from datahall.base.errors import Refused
from datahall.calibrate.machine import Machine
from datahall.case.door import load
from datahall.case.local import guessed_site
from datahall.prove.sealed_run import Here, sealed_run
from datahall.ui.cli import VERBS, main
from datahall.ui.given_plan import given_plan

ROOT = Path(__file__).parents[2]


DEVICE = {
    "linear_flops_per_s": 5e10, "wide_flops_per_s": 5e10, "attention_flops_per_s": 2e10, "word_bytes": 4.0,
    "memory_bytes_per_s": 1e10, "optimiser_bytes_per_s": 9e9, "launch_s": 2e-6, "kernel_s": 2e-6,
}  # fmt: skip


def test_the_case_with_an_own_model_trains_it_beside_its_sealed_forecast(tmp_path):
    case = load(ROOT / "cases" / "own-model.yaml")
    plan = given_plan(case, workers=1, micro_batch=8, checkpoint_every=0)
    rates = {"device": {f"{dtype}/1 threads/1 processes": DEVICE for dtype in ("fp32", "bf16")}}
    here = Here(guessed_site()[0], Machine(rates), "a test")
    done = sealed_run(case, plan, here, tmp_path / "run", steps=8, import_paths=[str(ROOT / "cases")])
    run = done.measured
    assert run.losses[-1] < run.losses[0] - 0.3
    assert run.result.counts["attention_flops"] == 0
    assert "validation_loss" in run.metrics
    counts = {row.name: row for row in done.comparison.counts if row.decided_by == "datahall"}
    assert counts["matmul_flops"].forecast == counts["matmul_flops"].measured > 0
    assert all(row.equal is not False for row in counts.values())
    assert done.memory.items["optimiser"] == done.memory.items["weights"]  # SGD with momentum keeps one number, not two


def test_a_proof_of_an_own_model_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prove", str(ROOT / "cases" / "own-model.yaml")])
    assert ended.value.code == Refused.exit_code
    assert "brings its own model" in capsys.readouterr().err


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
