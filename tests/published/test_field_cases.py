"""Answers that people in the field were given wrongly, by figures that need only counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.base import units
from datahall.base.errors import UnknownName, UsageError
from datahall.case import from_model_and_site, loads
from datahall.case.named_model import shape_of
from datahall.catalog import links
from datahall.catalog.accelerators import accelerator
from datahall.compute.mfu import adam_mixed_precision_bytes, mfu, training_s, weight_bytes


def test_70b_on_8_h100_takes_1536_days() -> None:
    """A public guide says 152 days: it lost a factor of ten."""
    peak = accelerator("H100-SXM").peak_flops_per_s["bf16"]
    assert training_s(70e9, 1e12, 8, peak, 0.4) / 86400 == pytest.approx(1536, rel=0.001)
    assert training_s(70e9, 1e12, 8, peak, 1.0) / 86400 == pytest.approx(614.4, rel=0.001)  # the ideal limit


def test_420_tflops_on_an_h200_is_42_5_percent() -> None:
    assert mfu(420e12, accelerator("H200").peak_flops_per_s["bf16"]) == pytest.approx(0.425, abs=1e-3)


def test_an_mfu_over_100_percent_is_an_error() -> None:
    peak = accelerator("A100").peak_flops_per_s["bf16"]
    assert mfu(peak, peak) == 1
    with pytest.raises(UsageError, match=r"102\.6 % cannot be"):
        mfu(320e12, peak)
    with pytest.raises(UsageError):
        mfu(np.array([1e12, 400e12]), np.array([peak, peak]))
    with pytest.raises(UsageError, match="peak of zero"):
        mfu(1e12, 0.0)


def test_a_bandwidth_is_bytes_over_seconds() -> None:
    rate = units.parse("978.66 MiB", "bytes") / units.parse("0.162 s", "seconds")
    assert rate / 2**30 == pytest.approx(5.90, abs=0.005)


def test_fp4_is_half_a_byte() -> None:
    assert weight_bytes(1e9, "fp4") == 0.5e9
    assert weight_bytes(1e9, "bf16") == 2e9


def test_adam_in_mixed_precision_is_16_bytes_a_parameter() -> None:
    assert adam_mixed_precision_bytes(70e9) == 1120e9
    assert adam_mixed_precision_bytes(shape_of("llama-3.1-70b").parameters()) == pytest.approx(1120e9, rel=0.01)


def test_thunderbolt_is_what_it_measures() -> None:
    text = "model: gpt2\napplication: {kind: training}\nsite: {accelerator: RTX4090, nodes: 2, link: thunderbolt-40}\n"
    assert loads(text).site.scale_out.bytes_per_s * 8 == pytest.approx(16.2e9)
    assert links.link("thunderbolt-40").marketed_bytes_per_s * 8 == 40e9


def test_an_a40_never_gets_an_h200s_memory() -> None:
    assert from_model_and_site("gpt2", "8xA40").site.accelerator.memory_bytes == 46068 * 2**20  # 48 GB card, ECC on
    assert accelerator("H200").memory_bytes > 140e9
    for name in ("A40-48GB-turbo", "H2000", "A4O"):
        with pytest.raises(UnknownName):
            from_model_and_site("gpt2", f"8x{name}")


@given(st.lists(st.tuples(st.floats(1e9, 1e12), st.floats(1e9, 1e13)), min_size=1, max_size=5))
def test_arrays_are_the_scalars_side_by_side(pairs: list[tuple[float, float]]) -> None:
    parameters, tokens = (np.array(column) for column in zip(*pairs, strict=True))
    together = training_s(parameters, tokens, np.array(8.0), np.array(1e15), np.array(0.4))
    for index, (one_parameters, one_tokens) in enumerate(pairs):
        assert together[index] == training_s(one_parameters, one_tokens, 8.0, 1e15, 0.4)
