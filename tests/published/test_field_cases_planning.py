"""What the field knows about what fits where, asked of the search; and mistakes that planners are known for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datahall.base.errors import DatahallError, Incompatible, NoPlan
from datahall.case import from_model_and_site, loads
from datahall.compute.plan import ComputePlan
from datahall.search.price import price
from datahall.search.rank import search
from datahall.search.space import space
from datahall.search.why import memory_items
from datahall.virtual.calibration import Uncalibrated

GB = 1e9


def test_8b_does_not_train_in_full_on_one_a40_and_does_on_eight() -> None:
    with pytest.raises(NoPlan, match="does not fit"):
        search(from_model_and_site("llama-3.1-8b", "1xA40", tokens=1e9, sequence=2048, global_batch=64))
    ranking = search(from_model_and_site("llama-3.1-8b", "8xA40", tokens=1e9, sequence=2048, global_batch=64))
    plans = ranking.numbers()
    copies = plans.data == 8
    assert np.any(copies & (plans.zero_stage == 3)), "FSDP over all eight is among the plans that fit"
    assert not np.any(copies & (plans.zero_stage == 0)), "plain data parallelism is not"


def test_8b_with_lora_fits_where_full_fine_tuning_does_not() -> None:
    application = "application: {kind: fine-tuning, method: METHOD, tokens: 1e8, sequence: 2048}"
    text = f"model: llama-3.1-8b\nsite: 1xA40\n{application}\n"
    with pytest.raises(NoPlan):
        search(loads(text.replace("METHOD", "full")))
    assert search(loads(text.replace("METHOD", "lora"))).compute(0).devices == 1


def test_adam_in_mixed_precision_is_sixteen_bytes_a_parameter_before_activations() -> None:
    case = from_model_and_site("llama-3.1-70b", "8xH100-SXM", tokens=1e9)
    items = memory_items(case, ComputePlan(data=1), Uncalibrated())
    states = items.weights + items.gradients + items.optimiser
    assert states / case.model.parameters() == pytest.approx(16, rel=0.15)
    assert states == pytest.approx(1120 * GB, rel=0.15)


def test_a_dense_70b_does_not_fit_on_eight_80_gb_cards_in_full() -> None:
    with pytest.raises(NoPlan):
        search(from_model_and_site("llama-3.1-70b", "8xH100-SXM", tokens=1e9))
    assert len(search(from_model_and_site("llama-3.1-70b", "4x8xH100-SXM", tokens=1e9)).order)


@pytest.mark.parametrize(
    ("site", "precision"), [("8xA100-80GB-SXM", "fp8"), ("8xH100-SXM", "fp4"), ("8xV100-32GB-SXM2", "bf16")]
)
def test_a_precision_that_a_card_lacks_is_refused(site: str, precision: str) -> None:
    with pytest.raises(Incompatible):
        search(from_model_and_site("llama-3.1-8b", site, tokens=1e9, precision=precision))


def test_unlisted_hardware_is_never_given_another_cards_figures() -> None:
    with pytest.raises(DatahallError, match="A41"):
        from_model_and_site("llama-3.1-8b", "8xA41")
    a40 = from_model_and_site("llama-3.1-8b", "8xA40").site.accelerator
    assert (
        a40.memory_bytes < 50 * 2**30 < from_model_and_site("llama-3.1-8b", "8xH200-SXM").site.accelerator.memory_bytes
    )


def test_llama_405b_on_16384_h100s_takes_tensor_and_pipeline_or_sharding_not_copies() -> None:
    ranking = search(
        from_model_and_site("llama-3.1-405b", "16384xH100-SXM", tokens=15.6e12, global_batch=2048, sequence=8192)
    )
    best = ranking.compute(0)
    assert best.tensor * best.pipeline > 1 or best.zero_stage == 3
    numbers = ranking.numbers()
    assert not np.any((numbers.tensor == 1) & (numbers.pipeline == 1) & (numbers.zero_stage == 0))
    # Meta's own split for this stage (arXiv 2407.21783, table 4): TP 8, CP 1, PP 16, DP 128.
    meta = (numbers.tensor == 8) & (numbers.pipeline == 16) & (numbers.context == 1) & (numbers.data == 128)
    assert meta.any()


def test_deepseek_v3_on_2048_h800s_spreads_its_experts() -> None:
    ranking = search(from_model_and_site("deepseek-v3", "2048xH800", tokens=14.8e12, global_batch=15360, sequence=4096))
    assert ranking.compute(0).expert > 1
    numbers = ranking.space.part(ranking.space.cells())
    # Its report (arXiv 2412.19437, section 3.2): PP 16, EP 64, ZeRO-1, no tensor parallelism.
    own = (numbers.pipeline == 16) & (numbers.expert == 64) & (numbers.tensor == 1) & (numbers.zero_stage == 1)
    assert own.any()


def test_do_not_distribute_this_is_an_answer() -> None:
    case = from_model_and_site("gpt2", "8xA40", tokens=1e9)
    slow = replace(case.site.scale_up, bytes_per_s=1e7, latency_s=0.05)
    ranking = search(replace(case, site=replace(case.site, scale_up=slow, scale_out=slow)))
    assert ranking.compute(0).devices == 1


def test_an_mfu_over_100_percent_never_comes_out_of_a_plan() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xH100-SXM", tokens=1e9)
    plans = space(case, "bf16", [8])
    prices = price(case, plans, Uncalibrated(), only_fitting=False)
    tokens = case.application.global_batch * case.application.sequence
    flops = 6 * (case.model.parameters() - case.model.vocab * case.model.hidden) * tokens
    assert (flops / (8 * prices.step_s * case.site.accelerator.peak_flops_per_s["bf16"])).max() < 1
