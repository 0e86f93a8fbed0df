"""`datahall validate` on the shipped figures, on awkward rows, and on the whole table where it is at hand."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from datahall.base.errors import UnknownName, UsageError
from datahall.calibrate.forecasting import forecast_runs
from datahall.calibrate.published import read_rows, read_runs
from datahall.calibrate.published_shape import Cells, shape_of_row
from datahall.calibrate.published_site import link_figures, network_stated, precision_of
from datahall.calibrate.shipped import load, shipped_runs
from datahall.calibrate.shot import correct
from datahall.catalog import published_runs
from datahall.catalog.accelerators import accelerator_described
from datahall.ui.validate import validate
from datahall.virtual.traits import recompute_of, traits_of

KEYS = {
    "n_rows", "n_scored", "n_refused", "refused_reasons", "median_ape", "mean_ape", "p90_ape", "macro_median_ape",
    "bias", "interval_coverage_share", "median_half_width_share", "interval_score", "regret_share", "by_group",
    "by_accelerator", "rows",
}  # fmt: skip


def _truth() -> Path | None:
    named = os.environ.get("DATAHALL_TRUTH")
    beside = Path(__file__).resolve().parents[4] / "shared" / "truth"
    for folder in ([Path(named)] if named else []) + [beside]:
        if (folder / "training.csv").exists():
            return folder / "training.csv"
    return None


def ran(*arguments: str) -> Result:
    result = CliRunner().invoke(validate, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def written(path: Path, rows: list[dict[str, str]]) -> str:
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def shipped_rows(group: str) -> list[dict[str, str]]:
    return [dict(row) for row in published_runs.rows() if row["group"] == group]


def test_shipped_figures_are_read_each_with_a_source() -> None:
    runs, refused = shipped_runs()
    assert len(runs) > 550
    assert [one.key for one in refused] == ["maxtext-052"]  # it cannot have been run as its source states it
    assert all(len(row["source"]) > 8 for row in published_runs.rows())


def test_json_has_the_agreed_keys(tmp_path: Path) -> None:
    rows = shipped_rows("sc21") + shipped_rows("torchtitan")
    data = json.loads(ran(written(tmp_path / "some.csv", rows), "--json").stdout)
    assert set(data) >= KEYS
    assert data["n_rows"] == len(rows) == data["n_scored"] + data["n_refused"]
    assert set(data["by_group"]) == {"sc21", "torchtitan"}
    assert sum(group["n_scored"] for group in data["by_group"].values()) == data["n_scored"]
    for row in data["rows"]:
        assert row["low_step_s"] < row["forecast_step_s"] < row["high_step_s"]
        assert row["held"] == (row["low_step_s"] <= row["measured_step_s"] <= row["high_step_s"])


def test_the_table_is_for_people(tmp_path: Path) -> None:
    text = ran(written(tmp_path / "some.csv", shipped_rows("korthikanti"))).stdout
    assert "korthikanti" in text
    assert "macro-averaged" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_every_row_is_told_the_refused_ones_with_their_reasons(tmp_path: Path) -> None:
    rows = shipped_rows("korthikanti")
    wrong = {**rows[0], "id": "mine [1]", "accelerator": "Cerebras"}
    text = " ".join(ran(written(tmp_path / "some.csv", [*rows, wrong]), "--rows").stdout.split())
    assert all(row["id"] in text for row in rows)
    assert 'refused mine [1] (Cerebras): "Cerebras" is not an accelerator' in text
    alone = ran(written(tmp_path / "none.csv", [wrong])).stdout
    assert "1 rows, 0 scored, 1 refused" in alone
    assert "macro-averaged" not in alone  # of nothing


def test_a_left_out_family_is_forecast_without_its_rows(tmp_path: Path) -> None:
    file = written(tmp_path / "some.csv", shipped_rows("korthikanti"))
    data = json.loads(ran(file, "--leave-out", "group", "--json").stdout)
    familiar = json.loads(ran(file, "--json").stdout)
    assert data["mean_ape"] < 0.08
    assert data["mean_ape"] != familiar["mean_ape"]


def test_a_few_rows_correct_the_rest_and_are_not_scored(tmp_path: Path) -> None:
    rows = shipped_rows("torchtitan")
    slow = [{**row, "tokens_per_s_per_device": str(float(row["tokens_per_s_per_device"]) * 0.6)} for row in rows]
    file, few = written(tmp_path / "all.csv", slow), written(tmp_path / "few.csv", slow[:10])
    before = json.loads(ran(file, "--json").stdout)
    after = json.loads(ran(file, "--calibrate-with", few, "--json").stdout)
    assert after["n_scored"] == before["n_scored"] - 10
    assert after["median_ape"] < 0.5 * before["median_ape"]


def test_what_was_learnt_and_what_was_not_is_said(tmp_path: Path) -> None:
    rows, others = shipped_rows("torchtitan"), shipped_rows("llm-foundry")[:3]
    file, many = written(tmp_path / "all.csv", rows), written(tmp_path / "many.csv", rows[:14])
    notes = " ".join(json.loads(ran(file, "--calibrate-with", many, "--json").stdout)["notes"])
    for said in ("Learnt from 10 ", "4 more were not used", "10 rows are among those and are not scored"):
        assert said in notes
    assert "correct little" not in notes
    foreign = written(tmp_path / "foreign.csv", others)
    notes = " ".join(json.loads(ran(file, "--calibrate-with", foreign, "--json").stdout)["notes"])
    assert "they correct little" in notes
    assert "not used" not in notes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accelerator": "Cerebras WSE-3"}, "not an accelerator"),
        ({"accelerator": "A100-80GB-SXM", "dtype": "fp8"}, "has no fp8"),
        ({"seq_len": ""}, "seq_len is not stated"),
        ({"n_devices": "eight"}, 'n_devices is "eight", which is no number'),
        ({"step_time_s": "-3"}, 'step_time_s is "-3"'),
        ({"step_time_s": "2,1"}, 'step_time_s is "2,1"'),
        ({"step_time_s": "2100 ms"}, "it is read in seconds"),
        ({"global_batch": "1 Mi tokens"}, "it is read in sequences"),
        ({"global_batch": "100", "micro_batch": "1", "dp": "", "n_devices": "64"}, "no whole number of micro-batches"),
        ({"micro_batch": "1000"}, "micro-batches of 1000 sequences"),
        ({"tokens_per_s_per_device": "inf"}, 'tokens_per_s_per_device is "inf"'),
        ({"tp": "7"}, "do not divide"),
        ({"tp": "two"}, 'tp is "two", which is no number'),
        ({"devices_per_node": "-8"}, 'devices_per_node is "-8"'),
        ({"n_devices": "64.5"}, "n_devices is 64.5, which is no whole number"),
        ({"ep": "8"}, "8 expert ranks for a model without experts"),
        ({"model": "mixtral-8x7b", "layers": "", "hidden": "", "ep": "3"}, "3 expert ranks for 8 experts"),
        ({"task": "LoRA rank 0"}, "rank 0"),
        ({"accelerator": "H100-SXM", "dtype": "fp8", "framework": "TensorFlow"}, "with tensorflow"),
        (
            {"accelerator": "B200", "dtype": "nvfp4", "framework": "llm-foundry (Composer+PyTorch FSDP)"},
            "llm-foundry (Composer+PyTorch FSDP) does not train in fp4: Composer's precisions are",
        ),
        ({"accelerator": "B200", "dtype": "fp4", "framework": "torchtitan 0.2"}, "which torchtitan has from 0.3 on"),
        ({"dtype": "fp16", "framework": "torchtitan"}, "does not train in fp16"),
        ({"dp": "3", "sharding": ""}, "dp 3 with 1 x 1 x 1 ranks does not fill"),
        ({"dp": "2", "sharding": "fsdp"}, "dp 2 with 1 x 1 x 1 ranks does not fill"),
        ({"pp": "128", "tp": "", "n_devices": "128"}, "pipeline stages"),
        ({"global_batch": "4194304"}, "batch is impossible"),
        ({"tokens_per_s_per_device": "9e6"}, "MFU over 100 %"),
        ({"kv_heads": "999", "model": "Mine"}, "keys and values"),
        ({"layers": "", "hidden": "", "model": "Something"}, "shape is not stated"),
        ({"step_time_s": "", "tokens_per_s_per_device": "nan", "model_tflops_per_device": ""}, "neither"),
        ({"quality": "C-arch-unknown"}, "quality"),
        (
            {"step_time_s": "3", "tokens_per_s_per_device": "", "global_batch": "", "micro_batch": ""},
            "batch is not stated",
        ),
    ],
)
def test_a_row_that_cannot_be_forecast_is_refused_with_its_reason(change: dict[str, str], reason: str) -> None:
    row = {**shipped_rows("torchtitan")[0], **change}
    runs, refused = read_runs([row])
    assert not runs
    assert reason in refused[0].reason


@pytest.mark.parametrize(
    ("card", "dtype", "stack"),
    [
        ("B200", "nvfp4", "Megatron-Bridge 26.02"),
        ("B200", "fp4", "Megatron-LM"),
        ("B200", "fp4", ""),
        ("H100-SXM", "fp8", "MaxText"),
        ("H100-SXM", "fp8", "llm-foundry"),
        ("H100-SXM", "fp8", "Megatron-DeepSpeed"),
    ],
)
def test_a_row_in_a_precision_that_its_stack_trains_in_is_read(card: str, dtype: str, stack: str) -> None:
    row = {**shipped_rows("torchtitan")[0], "accelerator": card, "dtype": dtype, "framework": stack}
    runs, refused = read_runs([row])
    assert not refused
    assert runs[0].variants[0].plan.precision == precision_of(dtype, accelerator_described(card))


def test_numbers_are_read_as_people_write_them() -> None:
    texts = {"n_devices": "1,024 GPUs", "seq_len": "8k", "tokens_per_s_per_device": "6.1k", "step_time_s": "2_100.5 s"}
    cells = Cells(texts)
    assert [cells.number(name) for name in texts] == [1024, 8192, 6100, 2100.5]
    assert Cells({"step_time_s": "1.5e-2"}).number("step_time_s") == 0.015
    assert Cells({"step_time_s": "12,34,567"}).number("step_time_s") is None


@pytest.mark.parametrize(
    ("model", "degrees"),
    [
        ("llama-3.1-8b", {"dp": "2", "sharding": "fsdp in a pod, 2 pods"}),  # copies, each sharded over several ranks
        ("mixtral-8x7b", {"dp": "4", "ep": "4", "sharding": ""}),  # without the ranks of the experts
    ],
)
def test_data_ranks_may_be_counted_without_those_that_share(model: str, degrees: dict[str, str]) -> None:
    row = {"model": model, "accelerator": "H100-SXM", "n_devices": "16", "seq_len": "4096", "global_batch": "64"}
    runs, refused = read_runs([{**row, **degrees, "step_time_s": "9"}])
    assert not refused
    assert runs[0].variants[0].plan.data == 16


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no row"), ("model,accelerator,n_devices\n", "no row"), ("model;accelerator\na;b\n", "commas between cells")],
)
def test_a_file_without_rows_is_told_from_one_without_columns(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "some.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match="this file") as refused:
        read_rows(file)
    assert said in str(refused.value)


@pytest.mark.parametrize("again", ["tp", " TP "])
def test_a_column_that_stands_twice_is_refused(tmp_path: Path, again: str) -> None:
    """The last one was taken, and nobody was told."""
    file = tmp_path / "some.csv"
    file.write_text(f"model,tp,accelerator,n_devices,,{again},\ngpt2,1,A100,8,,8,\n")
    with pytest.raises(UsageError, match=r"the column tp stands 2 times \(columns 2, 6\)") as refused:
        read_rows(file)
    assert refused.value.where == f"{file}:1"
    file.write_text("model,tp,accelerator,n_devices,,,\ngpt2,1,A100,8,,,\n")
    assert read_rows(file)[0]["tp"] == "1"  # columns without a name are of no one's


def test_a_split_that_cannot_hold_the_model_is_refused_unless_the_host_or_more_ranks_do() -> None:
    [row] = [row for row in shipped_rows("maxtext") if row["model"] == "Llama-3.1-405B" and "v6e" in row["accelerator"]]
    assert 0.98 * accelerator_described("TPU v6e").memory_bytes < 2 * 126 * 8192 * 16384  # layers' inputs alone
    _, refused = read_runs([row])
    assert "cannot hold the model" in refused[0].reason
    for change in (
        {"note": "remat: decoder layer input offloaded to host"},
        {"tp": "2"},
        {"n_devices": "512", "cp": "2"},
    ):
        assert read_runs([{**row, **change}])[0], change


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("H100-SXM", "H100-SXM"),
        ("TPU v5e", "TPU-v5e"),
        ("H100-96GB-HBM2e-500W", "H100-SXM-96GB-HBM2e"),
        ("H800 (H100-SXM NVLink 400GB/s)", "H800-SXM"),
        ("GB200 NVL72", "GB200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("H100 PCIe 80GB", "H100-PCIe"),
        ("A100 (40GB)", "A100-40GB-SXM"),
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("v5e-256", "TPU-v5e"),
    ],
)
def test_published_names_of_accelerators_are_known(name: str, found: str) -> None:
    assert accelerator_described(name).name == found


@pytest.mark.parametrize("name", ["", "GPU", "H100 96GB", "A40 141GB", "H100 MIG 1g.10gb", "Rubin"])
def test_a_card_with_other_memory_is_not_taken_for_one_that_is_known(name: str) -> None:
    with pytest.raises(UnknownName):
        accelerator_described(name)


@pytest.mark.parametrize(
    ("text", "card", "found"),
    [
        ("bfloat16", "H100-SXM", "bf16"),
        ("", "H100-SXM", "bf16"),
        ("bf16-mixed", "V100", "fp16"),
        ("FP8 (current scaling)", "H100-SXM", "fp8"),
        ("bf16+float8", "H100-SXM", "fp8"),
        ("NVFP4", "GB200", "fp4"),
    ],
)
def test_precisions_are_read_however_they_are_written(text: str, card: str, found: str) -> None:
    assert precision_of(text, accelerator_described(card)) == found


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("ZeRO-3", 3),
        ("ZeRO (stage 3)", 3),
        ("FULL_SHARD", 3),
        ("HSDP", 3),
        ("zero_stage_2", 2),
        ("distributed optimizer", 1),
        ("ZeRO-0", 0),
        ("ddp", 0),
        ("no FSDP", 0),
        ("NO_SHARD", 0),
        ("zero-bubble", 0),
    ],
)
def test_sharding_is_read_however_it_is_written(text: str, stage: int) -> None:
    runs, _ = read_runs([{**shipped_rows("torchtitan")[0], "sharding": text}])
    assert runs[0].variants[0].plan.zero_stage == stage


@pytest.mark.parametrize("text", ["ZeRO-9", "ZeRO-10", "ZeRO++", "zero", "MiCS", "SDP", "optimizer states sharded"])
def test_a_sharding_that_is_not_known_refuses_its_row(text: str) -> None:
    """It was read as none, or by the first of its digits."""
    runs, refused = read_runs([{**shipped_rows("torchtitan")[0], "sharding": text}])
    assert not runs
    assert refused[0].reason.startswith(f'sharding is "{text}", which is none of ZeRO-0 to ZeRO-3')
    named = {**shipped_rows("torchtitan")[0], "sharding": "", "framework": f"DeepSpeed, {text}"}
    assert read_runs([named])[0], "a framework's name states no sharding"


ODD = {
    "framework": ["", "NeMo 26.06", "Primus", "Megatron-LM", "HF Trainer 4.5", "AXLearn", "a stack nobody knows"],
    "accelerator": ["H200", "MI300X", "Ironwood", "NVIDIA B300 SXM6", "Trainium2"],
    "dtype": ["", "bfloat16", "half", "bf16-mixed"],
    "recompute": ["", "NaN", "yes", "block", "op", "?"],
    "interconnect": ["", "EFAv2 3200 Gbps", "8x400G RoCE", "Slingshot"],
    "sharding": ["", "HSDP", "ZeRO-1", "what"],
    "devices_per_node": ["", "0", "16"],
    "vp": ["", "0", "interleaved", "99"],
    "dp": ["", "0", "-1"],
    "moe_topk": ["", "0"],
    "head_dim": ["", "80"],
    "group": ["", "new"],
}


def test_rows_of_stacks_and_sites_never_seen_are_forecast() -> None:
    generator = np.random.default_rng(11)
    rows = [dict(row) for row in published_runs.rows()]
    changed: list[dict[str, str]] = []
    for _ in range(400):
        row = rows[generator.integers(len(rows))]
        names = generator.choice(list(ODD), 4, replace=False)
        changed.append({**row, **{name: str(generator.choice(ODD[name])) for name in names}, "step_time_s": "900"})
    runs, refused = read_runs(changed)
    found = forecast_runs(load(), runs)
    assert len(runs) + len(refused) == len(changed)
    # the third without what explained its `dp`
    expected = ("has no", "MFU over", "does not fill", "does not train in")
    assert all(any(part in one.reason for part in expected) for one in refused)
    assert len(runs) > 0.85 * len(changed)
    assert np.isfinite(found.high).all()
    assert ((found.low > 0) & (found.low < found.seconds) & (found.seconds < found.high)).all()


def test_a_maker_without_fitted_runs_widens_the_interval() -> None:
    row = shipped_rows("torchtitan")[0]
    known, new = widths([{**row, "accelerator": name} for name in ("H200", "MI300X")])
    assert new > 1.1 * known


def test_adapters_which_no_fitted_run_has_widen_the_interval() -> None:
    row = shipped_rows("torchtitan")[0]
    whole, beside = widths([{**row, "task": task} for task in ("pretrain", "lora")])
    assert beside > 2.0 * whole


def test_a_stack_that_is_not_stated_widens_the_interval() -> None:
    named, blank = widths([{**shipped_rows("torchtitan")[0], "framework": name} for name in ("a stack", "")])
    assert blank > 1.3 * named


def widths(rows: list[dict[str, str]]) -> list[float]:
    found = forecast_runs(load(), read_runs(rows)[0])
    return np.log(found.high / found.low).tolist()


def test_a_megatron_on_a_card_younger_than_fused_attention_has_it() -> None:
    old = traits_of("Megatron-LM", "gpu", architecture="ampere")
    new = traits_of("Megatron-LM", "gpu", architecture="hopper")
    assert old.fused_attention == 0.0
    assert new.fused_attention == 1.0
    assert new.family == old.family


def test_near_releases_of_a_stack_tell_more_of_its_mixtures_than_far_ones() -> None:
    runs = [run for run in shipped_runs()[0] if run.shape.experts and run.accelerator.name == "B200"]
    trained = load()
    new = next(run for run in runs if run.traits.release == "26.04.01")
    slow = [
        replace(new, traits=replace(new.traits, release=release), step_s=2.0 * new.step_s)
        for release in ("26.04", "20.04")
    ]
    near, far = (correct(trained.fitted, [one], [new]).log_correction[0] for one in slow)
    assert near > far > 0


def test_no_blank_makes_a_row_crash() -> None:
    rows = [shipped_rows(group)[0] for group in ("torchtitan", "megatron-bridge", "maxtext", "vtrain-multi")]
    generator = np.random.default_rng(7)
    broken: list[dict[str, str]] = []
    for row in rows:
        for name in row:
            broken += [{**row, name: text} for text in ("", "nan", "-1", "what")]
        for _ in range(20):
            gone = generator.choice(list(row), 6, replace=False)
            broken.append({**row, **dict.fromkeys(gone, "")})
    runs, refused = read_runs(broken)
    assert len(runs) + len(refused) == len(broken)
    assert len(runs) > len(refused)


def test_blanks_widen_the_interval(tmp_path: Path) -> None:
    row = next(row for row in shipped_rows("megatron-bridge") if row["pp"] not in {"", "1"} and row["vp"])
    file = written(tmp_path / "two.csv", [row, {**row, "vp": "", "recompute": "", "micro_batch": ""}])
    stated, blank = json.loads(ran(file, "--json").stdout)["rows"]
    width = [one["high_step_s"] / one["low_step_s"] for one in (stated, blank)]
    assert width[1] > width[0]


@pytest.mark.skipif(_truth() is None, reason="optional: the whole table of measurements does not stand beside the code")
def test_the_whole_table() -> None:
    data = json.loads(ran(str(_truth()), "--json").stdout)
    stated = data["n_rows"] - sum(n for why, n in data["refused_reasons"].items() if why.startswith("quality C"))
    assert data["n_scored"] >= 0.95 * stated
    assert data["macro_median_ape"] < 0.08
    assert 0.85 <= data["interval_coverage_share"] <= 1.0
    assert data["regret_share"] < 0.02


def test_held_out_errors_ship_with_the_constants() -> None:
    from datahall.catalog.calibrations import calibration

    held = calibration("training")["held_out"]
    groups = [group for group in held["group_zero_shot"] if group not in {"paper", "vtrain-single"}]
    assert np.mean([held["group_zero_shot"][group]["median_ape"] for group in groups]) < 0.15
    assert np.mean([held["group_zero_shot"][group]["mean_ape"] for group in groups]) < 0.20
    assert np.mean([held["group_ten_shot"][group]["median_ape"] for group in groups]) < 0.07
    assert np.mean([held["group_ten_shot"][group]["mean_ape"] for group in groups]) < 0.11


def test_notes_tell_how_gradients_travel_and_whether_attention_is_fused() -> None:
    plain = traits_of("MaxText", "gpu")
    assert (plain.fused_attention, plain.short_gradients) == (1.0, 0.0)
    assert traits_of("MaxText", "gpu", "plain XLA, attention not fused").fused_attention == 0.0
    assert traits_of("MaxText", "gpu", "unfused attention").fused_attention == 0.0
    for note in ("gradients in bf16", "grad_sync_dtype: bf16", "grad_reduce_in_fp32=False"):
        assert traits_of("NeMo 24.04", "gpu", note).short_gradients == 1.0


def test_some_of_the_layers_recomputed_is_between_all_and_none() -> None:
    traits = traits_of("NeMo 25.04", "gpu")
    assert recompute_of("full (block: 21 of 80 layers)", traits, False) == [("full", 21 / 80), ("none", 59 / 80)]
    assert recompute_of("full (80 of 80 layers)", traits, False)[0] == ("full", 1.0)


def test_rows_of_another_stack_and_accelerator_move_nothing() -> None:
    runs = shipped_runs()[0]
    foreign = [replace(run, step_s=3.0 * run.step_s) for run in runs if run.group == "maxtext"][:10]
    others = [run for run in runs if run.group == "llm-foundry"]
    plain = forecast_runs(load(), others)
    shown = forecast_runs(load(), others, foreign)
    assert shown.seconds == pytest.approx(plain.seconds, rel=1e-12)
    akin = [run for run in others if run.accelerator.name == "H100-SXM"]
    slow = [replace(run, step_s=1.5 * run.step_s) for run in akin[:10]]
    assert (forecast_runs(load(), akin, slow).seconds > forecast_runs(load(), akin).seconds).all()


def test_milliseconds_taken_for_seconds_are_not_learnt_from(tmp_path: Path) -> None:
    rows = shipped_rows("torchtitan")
    late = [{**row, "tokens_per_s_per_device": str(float(row["tokens_per_s_per_device"]) / 1000)} for row in rows[:3]]
    file = written(tmp_path / "all.csv", rows[5:])
    few = written(tmp_path / "few.csv", [*late, rows[3], rows[4]])
    right = written(tmp_path / "right.csv", [rows[3], rows[4]])
    found, calm = (json.loads(ran(file, "--calibrate-with", one, "--json").stdout) for one in (few, right))
    notes = " ".join(found["notes"])
    assert "Learnt from 2 " in notes
    assert "3 rows to learn from are left out" in notes
    assert "seconds" in notes
    assert [row["forecast_step_s"] for row in found["rows"]] == [row["forecast_step_s"] for row in calm["rows"]]


@pytest.mark.parametrize(
    ("text", "bits_per_s"),
    [
        ("400 Gb/s per GPU", 400e9),
        ("3.2 Tb/s per node", 400e9),
        ("50 GB/s/GPU RoCE", 400e9),
        ("25 GbE", 3.125e9),
        ("NVLink4 900 GB/s/GPU", 0.0),
        ("900 GB/s/GPU NVLink4; 8x200Gb/s", 200e9),
        ("InfiniBand", 0.0),
    ],
)
def test_the_rate_of_a_network_is_read_however_it_is_written(text: str, bits_per_s: float) -> None:
    card = accelerator_described("H100-SXM")
    usual = link_figures(card, "", 64, 8).out_bytes_per_s
    assert link_figures(card, text, 64, 8).out_bytes_per_s == pytest.approx(bits_per_s / 8 if bits_per_s else usual)
    assert network_stated(card, text) == bool(bits_per_s)


def test_a_rate_of_a_node_is_shared_by_the_devices_that_it_has() -> None:
    assert link_figures(accelerator_described("H100-SXM"), "400 Gb/s/node", 64, 4).out_bytes_per_s == 12.5e9
    rack = link_figures(accelerator_described("GB200"), "1600 Gb/s/node", 144, 72)  # a rack of trays of four
    assert rack.out_bytes_per_s == 50e9


def test_a_refused_row_stands_with_its_accelerator_and_columns_are_known_however_they_are_spelt(tmp_path: Path) -> None:
    rows = shipped_rows("torchtitan")[:2]
    rows[1]["tp"] = "7"
    odd = [{name.replace("_", " ").title(): text for name, text in row.items()} for row in rows]
    data = json.loads(ran(written(tmp_path / "odd.csv", odd), "--json").stdout)
    assert (data["n_scored"], data["n_refused"]) == (1, 1)
    other = [{**row, "accelerator": row["accelerator"].replace("-", " ")} for row in rows]
    by = json.loads(ran(written(tmp_path / "other.csv", other), "--json").stdout)["by_accelerator"]
    assert len(by) == 1


@pytest.mark.parametrize(("column", "value"), [("kv_heads", "4"), ("ffn", "28672"), ("head_dim", "64")])
def test_a_shape_that_differs_from_the_catalogue_is_the_rows_own(column: str, value: str) -> None:
    row = {"model": "Llama-3.1-8B", "layers": "32", "hidden": "4096", "heads": "32", "mlp_mats": "3", column: value}
    assert getattr(shape_of_row(Cells(row)), column) == int(value)
