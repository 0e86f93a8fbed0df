"""MXFP8 keeps a scale for each block of 32 numbers: dense products take longer for it, and a choice may be for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datahall.base.errors import Incompatible
from datahall.calibrate.design import design
from datahall.calibrate.judge import choices
from datahall.calibrate.published import PublishedRun, read_runs
from datahall.calibrate.shipped import load, shipped_runs
from datahall.case.named_site import site_from_text
from datahall.case.quick import check_precision
from datahall.virtual.traits import traits_of

_DENSE = {
    "model": "Llama-3-8B", "accelerator": "B200", "n_devices": "8", "dp": "8", "micro_batch": "2",
    "global_batch": "128", "seq_len": "8192", "sharding": "zero1", "framework": "Megatron-Bridge 25.11",
    "step_time_s": "4.2", "recompute": "none", "group": "mine",
}  # fmt: skip
_MIXTURE = _DENSE | {"model": "Mixtral-8x7B", "n_devices": "64", "dp": "64", "ep": "8", "sharding": "fsdp"}


def test_the_format_is_read_from_the_row_and_from_the_stack() -> None:
    assert read_runs([_DENSE | {"dtype": "mxfp8"}])[0][0].traits.block_scales == 1.0
    assert read_runs([_DENSE | {"dtype": "fp8"}])[0][0].traits.block_scales == 0.0
    assert traits_of("Megatron-Bridge 26.04, MXFP8", "gpu").block_scales == 1.0
    assert traits_of("Megatron-Bridge 26.04, FP8 (MX)", "gpu").block_scales == 1.0
    assert read_runs([_DENSE | {"dtype": "fp8_mx"}])[0][0].traits.block_scales == 1.0  # Megatron-Bridge's name
    assert traits_of("Megatron-Bridge 26.04, bf16_with_mxfp8_mixed", "gpu").block_scales == 1.0
    assert traits_of("mxnet", "gpu").block_scales == 0.0
    assert traits_of("MXFP4", "gpu").block_scales == 0.0


def test_dense_products_take_longer_and_those_of_experts_do_not() -> None:
    dense, mixture = (_longer(row) for row in (_DENSE, _MIXTURE))
    assert 1.01 < dense < 1.08
    assert 1.0 < mixture < dense


def test_what_published_pairs_of_one_plan_lose_is_what_is_forecast() -> None:
    pairs = _dense_pairs()
    measured = [block.step_s / tensor.step_s for tensor, block in pairs]
    seconds = [load().fitted.log_seconds(pair, design(pair)) for pair in pairs]
    forecast = [float(np.exp(one[1] - one[0])) for one in seconds]
    assert len(pairs) >= 7
    assert min(measured) > 1.0
    assert abs(np.median(forecast) - np.median(measured)) < 0.025  # experts' rows pull the constant to one


def test_how_fp8_is_scaled_is_part_of_a_choice() -> None:
    runs = read_runs([_DENSE | {"dtype": "fp8"}, _DENSE | {"dtype": "mxfp8", "tp": "2", "dp": "4"}])[0]
    assert choices(runs) == [[0, 1]]


def test_an_accelerator_without_products_of_blocks_refuses_them() -> None:
    refused = read_runs([_DENSE | {"dtype": "mxfp8", "accelerator": "H100-SXM"}])[1]
    assert refused[0].kind == "impossible"
    assert "H100-SXM does not compute in MXFP8" in refused[0].reason
    assert not read_runs([_DENSE | {"dtype": "fp8", "accelerator": "H100-SXM"}])[1]
    for site in ("8xH100-SXM", "8xB200"):
        named = replace(site_from_text(site)[0], stack="Megatron-LM 0.15, MXFP8")
        check_precision("bf16", named)
        if site == "8xB200":
            check_precision("fp8", named)
            continue
        with pytest.raises(Incompatible, match="does not compute in MXFP8"):
            check_precision("fp8", named)


def _longer(row: dict[str, str]) -> float:
    runs = read_runs([row | {"dtype": "fp8"}, row | {"dtype": "mxfp8"}])[0]
    tensor, block = load().fitted.log_seconds(runs, design(runs))
    return float(np.exp(block - tensor))


def _dense_pairs() -> list[tuple[PublishedRun, PublishedRun]]:
    """Shipped runs of one plan and release that differ in nothing but how fp8 is scaled."""
    found: dict[tuple[object, ...], dict[float, PublishedRun]] = {}
    for run in shipped_runs()[0]:
        plan = run.variants[0].plan
        if plan.precision == "fp8" and not run.shape.experts:
            key = (run.model, run.accelerator.name, run.devices, run.release, run.global_batch, plan)
            found.setdefault(key, {})[run.traits.block_scales] = run
    return [(both[0.0], both[1.0]) for both in found.values() if len(both) == 2]
