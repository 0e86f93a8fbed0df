"""Runs collected after the fit: nothing is fitted to them, all are scored, and the docs show what is printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from measured_rows import truth

from datahall.calibrate.accuracy_table import bars
from datahall.calibrate.design import design
from datahall.calibrate.forecasting import forecast_runs
from datahall.calibrate.published import PublishedRun, read_rows, read_runs
from datahall.calibrate.shipped import load, shipped_runs, unseen_runs
from datahall.calibrate.validate import judge_rows
from datahall.catalog import published_runs
from datahall.catalog.calibrations import calibration
from datahall.compute.memory import memory
from datahall.ui.validate import validate
from datahall.virtual.micro_step import first_share
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
    table = truth()
    if table is None:
        pytest.skip("optional: the table is not at hand")
    known = {identity(run) for run in read_runs(read_rows(table))[0]}
    assert not [run.key for run in unseen_runs()[0] if identity(run) in known]


def test_the_docs_show_what_is_printed() -> None:
    result = CliRunner().invoke(validate, ["--unseen"], catch_exceptions=False)
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


def test_what_was_asked_stands_beside_what_is_reached() -> None:
    table = bars(calibration("training")["held_out"], judge_rows(None, unseen=True).to_json())
    shown = (ROOT / "docs" / "tables" / "training-bars.md").read_text(encoding="utf-8")
    assert shown == table, "scripts/refit writes the table again"


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


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("offload(qkv_proj_offloaded)", "keep-qkv"),
        ("offload(layer input, queries, keys, values)", "keep-qkv"),
        ("full(remat; queries, keys, values and attention kept)", "keep-attention"),
        ("offload(layer input)", "full"),
        ("selective(minimal)", "selective"),
        ("full", "full"),
    ],
)
def test_what_is_kept_of_a_layer_is_not_repeated(text: str, mode: str) -> None:
    assert run_of("ironwood-09", recompute=text).variants[0].plan.recompute == mode


def test_the_more_is_kept_the_faster_the_step_and_the_fuller_the_memory() -> None:
    modes = ("full", "offload(qkv)", "full(queries, attention kept)", "none")
    runs = [run_of("ironwood-09", recompute=mode) for mode in modes]
    arrays = design(runs)
    constants = load().fitted.constants
    assert np.all(np.diff(arrays.seconds(constants)) < 0)
    assert np.all(np.diff(memory(arrays.counts, arrays.sequence, arrays.plans).activations) > 0)
    steps = arrays.steps(constants)
    projections = first_share(arrays.counts) * steps.linear / 3.0  # forward: a third of what they take in all
    assert steps.recompute[0] - steps.recompute[1] == pytest.approx(projections[0], rel=1e-9)


def test_ranks_that_broadcast_what_they_updated_pay_for_each_broadcast() -> None:
    constants = load().fitted.constants
    small, large = run_of("internevo-02"), run_of("internevo-03")
    plain = [run_of(run.key, framework="some torch program") for run in (small, large)]
    ours = design([small, large]).seconds(constants) - design(plain).seconds(constants)
    assert ours[1] > 8 * max(0.0, ours[0])  # 128 ranks do 128 broadcasts over 127 hops, 1,024 do 224 over 1,023
    inside = run_of("internevo-06")
    assert design([inside]).seconds(constants)[0] < design([large]).seconds(constants)[0]


def test_transfers_and_distance_widen_an_interval() -> None:
    runs = [run_of("internevo-01"), run_of("internevo-03")]
    near, far = forecast_runs(load(), runs).log_scale
    assert far > near


def test_samples_packed_from_short_examples_attend_within_each_alone() -> None:
    constants = load().fitted.constants
    packed, whole = run_of("nemo-25-05"), run_of("nemo-25-05", note="")
    short = run_of("nemo-25-05", seq_len="200", global_batch="656", micro_batch="82")
    seconds = [design([run]).steps(constants) for run in (packed, whole, short)]
    assert seconds[0].total[0] < 0.8 * seconds[1].total[0]
    assert seconds[0].linear[0] == pytest.approx(seconds[1].linear[0], rel=1e-12)
    per_token = [
        step.attention[0] / run.sequence / run.global_batch
        for step, run in zip(seconds, (packed, whole, short), strict=True)
    ]
    assert per_token[0] < 0.1 * per_token[1]
    assert per_token[0] < 1.5 * per_token[2]
