"""Runs collected after the fit: nothing is fitted to them, all are scored, and the docs show what is printed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from datahall.calibrate.design import design
from datahall.calibrate.published import PublishedRun, read_rows, read_runs
from datahall.calibrate.shipped import load, shipped_runs, unseen_runs
from datahall.calibrate.validate import judge_rows
from datahall.catalog import published_runs
from datahall.ui.validate import validate
from datahall.virtual.traits import traits_of

ROOT = Path(__file__).resolve().parents[3]


def identity(run: PublishedRun) -> tuple[object, ...]:
    return run.accelerator.name, run.devices, run.sequence, run.shape.layers, run.shape.hidden, f"{run.step_s:.3g}"


def row(key: str, **changes: str) -> dict[str, str]:
    return {**next(dict(found) for found in published_runs.unseen_rows() if found["id"] == key), **changes}


def run_of(key: str, **changes: str) -> PublishedRun:
    runs, refused = read_runs([row(key, **changes)])
    assert not refused, refused
    return runs[0]


def reason(key: str, **changes: str) -> str:
    runs, refused = read_runs([row(key, **changes)])
    assert not runs
    return refused[0].reason


def test_nothing_of_them_is_refused_and_each_has_its_source() -> None:
    runs, refused = unseen_runs()
    assert len(runs) == len(published_runs.unseen_rows()) > 100
    assert not refused
    names = set(published_runs.sources().values())
    assert all(found["source"] in names for found in published_runs.unseen_rows())


def test_none_of_them_is_among_the_fitted_runs() -> None:
    fitted = {identity(run) for run in shipped_runs()[0]}
    assert not [run.key for run in unseen_runs()[0] if identity(run) in fitted]
    neighbours = {run.key for run in load().neighbours.runs}
    assert not neighbours & {run.key for run in unseen_runs()[0]}


def test_none_of_them_is_in_the_table_that_we_were_given() -> None:
    folders = [Path(os.environ.get("DATAHALL_TRUTH", "nowhere")), ROOT.parent / "shared" / "truth"]
    table = next((folder / "training.csv" for folder in folders if (folder / "training.csv").exists()), None)
    if table is None:
        pytest.skip("optional: the table is not at hand")
    known = {identity(run) for run in read_runs(read_rows(table))[0]}
    assert not [run.key for run in unseen_runs()[0] if identity(run) in known]


def test_the_docs_show_what_is_printed() -> None:
    result = CliRunner().invoke(validate, ["--unseen", "--rows"], catch_exceptions=False)
    assert result.exit_code == 0
    shown = (ROOT / "docs" / "tables" / "unseen-training.md").read_text(encoding="utf-8")
    assert shown == f"```\n{result.stdout}```\n", "scripts/refit prints the table again"


def test_the_figures_of_the_docs_are_those_of_the_table() -> None:
    data = judge_rows(None, unseen=True).to_json()
    text = " ".join((ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8").split())
    said = (
        f"{data['n_scored']} runs: median {100 * data['median_ape']:.1f} %, mean {100 * data['mean_ape']:.1f} %, "
        f"intervals hold for {100 * data['interval_coverage_share']:.0f} %"
    )
    assert said in text
    assert f"median {100 * data['macro_median_ape']:.1f} % and mean {100 * data['macro_mean_ape']:.1f} %" in text


def test_unseen_and_a_file_are_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("model,accelerator,n_devices\n", encoding="utf-8")
    result = CliRunner().invoke(validate, [str(file), "--unseen"])
    assert result.exit_code != 0


def test_adapters_freeze_the_model() -> None:
    constants = load().fitted.constants
    whole, thin = run_of("lora-01", task=""), run_of("lora-01")
    assert whole.adapters is None
    assert thin.adapters is not None
    ratio = float(design([thin]).seconds(constants)[0] / design([whole]).seconds(constants)[0])
    assert 2 / 3 < ratio < 0.95  # two thirds of the products, all of the rest, and the adapters
    both = design([whole, thin]).seconds(constants)
    assert both[1] / both[0] == pytest.approx(ratio, rel=1e-12)


def test_a_frozen_model_is_no_repeat_of_a_trained_one() -> None:
    known = dict(next(found for found in published_runs.rows() if found["group"] == "torchtitan"))
    trained, frozen = read_runs([known, {**known, "task": "LoRA"}])[0]
    assert list(load().neighbours.tell([trained, frozen]).repeated) == [True, False]


def test_a_rate_that_only_a_frozen_model_reaches_is_not_impossible() -> None:
    assert "MFU over 100 %" in reason("lora-05", task="")
    assert run_of("lora-05", task="LoRA, rank 64").adapters.rank == 64  # type: ignore[union-attr]
    assert "4 bits" in reason("lora-04", task="QLoRA")


def test_names_that_contain_another_stacks_name() -> None:
    assert traits_of("NeMo Megatron for Neuron", "other").issue == "xla"
    assert traits_of("NeMo AutoModel 25.10", "gpu").issue == "eager"
    assert traits_of("NeMo 24.07", "gpu").family == "megatron-bridge"


@pytest.mark.parametrize(
    ("sharding", "stage", "group"),
    [
        ("zero1 within 8 devices", 1, 8),
        ("zero1", 1, 0),
        ("ZeRO-2 within 4 GPUs", 2, 4),
        ("fsdp within 16 devices", 3, 16),
    ],
)
def test_optimiser_states_shared_by_some_devices_only(sharding: str, stage: int, group: int) -> None:
    plan = run_of("internevo-05", sharding=sharding).variants[0].plan
    assert (plan.zero_stage, plan.shard_group) == (stage, group)
