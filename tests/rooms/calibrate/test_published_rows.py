"""Rows of published runs are read however people write them: numbers, names, splits, notes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from measured_rows import shipped_rows

from datahall.base.errors import UnknownName, UsageError
from datahall.calibrate.published import read_rows, read_runs
from datahall.calibrate.published_shape import Cells, shape_of_row
from datahall.calibrate.published_site import link_figures, network_stated, precision_of
from datahall.calibrate.shipped import shipped_runs
from datahall.catalog import published_runs
from datahall.catalog.accelerators import accelerator_described
from datahall.virtual.traits import recompute_of, traits_of


def test_shipped_figures_are_read_each_with_a_source() -> None:
    runs, refused = shipped_runs()
    assert len(runs) > 550
    assert [one.key for one in refused] == ["maxtext-052"]  # it cannot have been run as its source states it
    assert all(len(row["source"]) > 8 for row in published_runs.rows())


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


@pytest.mark.parametrize("before", ["\n", "\r\n\r\n", "  \n", ",,,,\n,,,,\n", "\ufeff\n"])
def test_blank_lines_before_the_names_of_columns_do_not_matter(tmp_path: Path, before: str) -> None:
    file = tmp_path / "some.csv"
    file.write_bytes((before + 'model,accelerator,n_devices,note\ngpt2,A100,8,"two\nlines"\n').encode())
    [row] = read_rows(file)
    assert (row["model"], row["note"]) == ("gpt2", "two\nlines")
    file.write_text(before)
    with pytest.raises(UsageError, match="no row of measurements"):
        read_rows(file)


@pytest.mark.parametrize("again", ["tp", " TP "])
def test_a_column_that_stands_twice_is_refused(tmp_path: Path, again: str) -> None:
    """The last one was taken, and nobody was told."""
    file = tmp_path / "some.csv"
    file.write_text(f"model,tp,accelerator,n_devices,,{again},\ngpt2,1,A100,8,,8,\n")
    with pytest.raises(UsageError, match=r"the column tp stands 2 times \(columns 2, 6\)") as refused:
        read_rows(file)
    assert refused.value.where == f"{file}:1"
    file.write_text(f"\n\nmodel,tp,accelerator,n_devices,,{again},\ngpt2,1,A100,8,,8,\n")
    with pytest.raises(UsageError, match="stands 2 times") as refused:
        read_rows(file)
    assert refused.value.where == f"{file}:3"
    file.write_text("model,tp,accelerator,n_devices,,,\ngpt2,1,A100,8,,,\n")
    assert read_rows(file)[0]["tp"] == "1"  # columns without a name are of no one's


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
        ("deepspeed z3", 3),
        ("Z2", 2),
        ("stage 1", 1),
        ("dp_shard=8", 3),
        ("fully sharded", 3),
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


@pytest.mark.parametrize(("column", "value"), [("kv_heads", "4"), ("ffn", "28672"), ("head_dim", "64")])
def test_a_shape_that_differs_from_the_catalogue_is_the_rows_own(column: str, value: str) -> None:
    row = {"model": "Llama-3.1-8B", "layers": "32", "hidden": "4096", "heads": "32", "mlp_mats": "3", column: value}
    assert getattr(shape_of_row(Cells(row)), column) == int(value)


def test_a_megatron_on_a_card_younger_than_fused_attention_has_it() -> None:
    old = traits_of("Megatron-LM", "gpu", architecture="ampere")
    new = traits_of("Megatron-LM", "gpu", architecture="hopper")
    assert old.fused_attention == 0.0
    assert new.fused_attention == 1.0
    assert new.family == old.family
