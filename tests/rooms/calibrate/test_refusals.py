"""Rows that are refused: why, and of which kind, so that each is counted where it belongs."""

from __future__ import annotations

import pytest
from measured_rows import shipped_rows

from datahall.calibrate.forecasting import forecast_runs
from datahall.calibrate.judge import Judgement
from datahall.calibrate.published import read_runs
from datahall.calibrate.shipped import load
from datahall.catalog.accelerators import accelerator_described


@pytest.mark.parametrize(
    ("change", "reason", "kind"),
    [
        ({"accelerator": "Cerebras WSE-3"}, "not an accelerator", "uncovered"),
        ({"accelerator": "A100-80GB-SXM", "dtype": "fp8"}, "has no fp8", "impossible"),
        ({"seq_len": ""}, "seq_len is not stated", "unstated"),
        ({"n_devices": "eight"}, 'n_devices is "eight", which is no number', "unreadable"),
        ({"step_time_s": "-3"}, 'step_time_s is "-3"', "unreadable"),
        ({"step_time_s": "2,1"}, 'step_time_s is "2,1"', "unreadable"),
        ({"step_time_s": "2100 ms"}, "it is read in seconds", "unreadable"),
        ({"global_batch": "1 Mi tokens"}, "it is read in sequences", "unreadable"),
        (
            {"global_batch": "100", "micro_batch": "1", "dp": "", "n_devices": "64"},
            "no whole number of micro-batches",
            "impossible",
        ),
        ({"micro_batch": "1000"}, "micro-batches of 1000 sequences", "impossible"),
        ({"tokens_per_s_per_device": "inf"}, 'tokens_per_s_per_device is "inf"', "unreadable"),
        ({"tp": "7"}, "do not divide", "impossible"),
        ({"tp": "two"}, 'tp is "two", which is no number', "unreadable"),
        ({"devices_per_node": "-8"}, 'devices_per_node is "-8"', "unreadable"),
        ({"n_devices": "64.5"}, "n_devices is 64.5, which is no whole number", "impossible"),
        ({"ep": "8"}, "8 expert ranks for a model without experts", "impossible"),
        (
            {"model": "mixtral-8x7b", "layers": "", "hidden": "", "ep": "3"},
            "3 expert ranks for 8 experts",
            "impossible",
        ),
        ({"task": "LoRA rank 0"}, "rank 0", "impossible"),
        ({"accelerator": "H100-SXM", "dtype": "fp8", "framework": "TensorFlow"}, "with tensorflow", "impossible"),
        (
            {"accelerator": "B200", "dtype": "nvfp4", "framework": "llm-foundry (Composer+PyTorch FSDP)"},
            "llm-foundry (Composer+PyTorch FSDP) does not train in fp4: Composer's precisions are",
            "impossible",
        ),
        (
            {"accelerator": "B200", "dtype": "fp4", "framework": "torchtitan 0.2"},
            "which torchtitan has from 0.3 on",
            "impossible",
        ),
        ({"dtype": "fp16", "framework": "torchtitan"}, "does not train in fp16", "impossible"),
        ({"dp": "3", "sharding": ""}, "dp 3 with 1 x 1 x 1 ranks does not fill", "impossible"),
        ({"dp": "2", "sharding": "fsdp"}, "dp 2 with 1 x 1 x 1 ranks does not fill", "impossible"),
        ({"pp": "128", "tp": "", "n_devices": "128"}, "pipeline stages", "impossible"),
        ({"global_batch": "4194304"}, "batch is impossible", "impossible"),
        ({"tokens_per_s_per_device": "9e6"}, "MFU over 100 %", "impossible"),
        ({"kv_heads": "999", "model": "Mine"}, "keys and values", "impossible"),
        ({"layers": "", "hidden": "", "model": "Something"}, "shape is not stated", "uncovered"),
        ({"step_time_s": "", "tokens_per_s_per_device": "nan", "model_tflops_per_device": ""}, "neither", "unstated"),
        ({"layers": "", "hidden": "", "model": ""}, "shape is not stated", "unstated"),
        ({"layers": "80", "ffn": "", "heads": "", "model": "Something"}, "depth and width only", "unstated"),
        ({"accelerator": "nan"}, "accelerator is not stated", "unstated"),
        ({"n_devices": ""}, "n_devices is not stated", "unstated"),
        ({"dtype": "posit8"}, "has no posit8", "uncovered"),
        ({"sharding": "ZeRO++"}, "none of ZeRO-0", "uncovered"),
        ({"task": "QLoRA"}, "4 bits", "uncovered"),
        ({"arch_note": "Mamba-2 hybrid", "model": "Mine"}, "other than a transformer", "uncovered"),
        ({"quality": "C-arch-unknown"}, "quality", "unstated"),
        (
            {"step_time_s": "3", "tokens_per_s_per_device": "", "global_batch": "", "micro_batch": ""},
            "batch is not stated",
            "unstated",
        ),
    ],
)
def test_a_row_that_cannot_be_forecast_is_refused_with_its_reason(
    change: dict[str, str], reason: str, kind: str
) -> None:
    row = {**shipped_rows("torchtitan")[0], **change}
    runs, refused = read_runs([row])
    assert not runs
    assert reason in refused[0].reason
    assert refused[0].kind == kind


def test_a_split_that_cannot_hold_the_model_is_refused_unless_the_host_or_more_ranks_do() -> None:
    [row] = [row for row in shipped_rows("maxtext") if row["model"] == "Llama-3.1-405B" and "v6e" in row["accelerator"]]
    assert 0.98 * accelerator_described("TPU v6e").memory_bytes < 2 * 126 * 8192 * 16384  # layers' inputs alone
    _, refused = read_runs([row])
    assert "cannot hold the model" in refused[0].reason
    assert refused[0].kind == "impossible"
    for change in (
        {"note": "remat: decoder layer input offloaded to host"},
        {"tp": "2"},
        {"n_devices": "512", "cp": "2"},
    ):
        assert read_runs([{**row, **change}])[0], change


@pytest.mark.parametrize("text", ["ZeRO-9", "ZeRO-10", "ZeRO++", "zero", "MiCS", "SDP", "optimizer states sharded"])
def test_a_sharding_that_is_not_known_refuses_its_row(text: str) -> None:
    """It was read as none, or by the first of its digits."""
    runs, refused = read_runs([{**shipped_rows("torchtitan")[0], "sharding": text}])
    assert not runs
    assert refused[0].reason.startswith(f'sharding is "{text}", which is none of ZeRO-0 to ZeRO-3')
    named = {**shipped_rows("torchtitan")[0], "sharding": "", "framework": f"DeepSpeed, {text}"}
    assert read_runs([named])[0], "a framework's name states no sharding"


def test_kinds_are_counted_apart_and_usable_rows_are_what_is_neither_impossible_nor_unstated() -> None:
    whole = shipped_rows("torchtitan")[0]
    broken = ({"tp": "7"}, {"seq_len": ""}, {"n_devices": ""}, {"tp": "two"}, {"accelerator": "Cerebras"})
    runs, refused = read_runs([whole, whole, *({**whole, **change} for change in broken)])
    data = Judgement(tuple(runs), forecast_runs(load(), runs), tuple(refused)).to_json()
    assert data["refused_kinds"] == {"impossible": 1, "unstated": 2, "unreadable": 1, "uncovered": 1}
    assert sum(data["refused_kinds"].values()) == data["n_refused"] == sum(data["refused_reasons"].values())
    assert (data["n_usable"], data["scored_share"]) == (4, pytest.approx(2 / 7))
    assert data["scored_share_of_usable"] == 0.5  # what datahall cannot read or does not know stays its own
    kinds = [row["kind"] for row in data["rows"] if not row["scored"]]
    assert kinds == ["impossible", "unstated", "unstated", "unreadable", "uncovered"]
