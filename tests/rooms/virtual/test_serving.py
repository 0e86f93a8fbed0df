"""The forecast of inference: arrays answer as scalars do, limits are textbook ones, published figures are near it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.case.named_model import shape_of
from datahall.case.named_site import site_from_text
from datahall.catalog import accelerators, links
from datahall.compute.counts import ShapeCounts, stack_counts
from datahall.compute.estimate import experts_touched
from datahall.search.served import cached_width, served
from datahall.virtual.serving import INTERVAL, MEMORY_SHARE, Server, forward_s, token_s, touched_weights

NAMES = ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v3")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES), st.integers(1, 300), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4])
        ),
        min_size=1,
        max_size=4,
    )
)
def test_an_element_is_the_scalar_answer(rows: list[tuple[str, int, int, int]]) -> None:
    shapes = [shape_of(name) for name, *_ in rows]
    widths = [float(cached_width(shape)) for shape in shapes]
    batch, tensor, stages = (np.array([float(row[at]) for row in rows]) for at in (1, 2, 3))
    together = token_s(
        stack_counts([ShapeCounts.of(shape) for shape in shapes]),
        np.array(widths),
        Server(989e12, 3.35e12, 450e9, tensor, stages),
        batch,
        1000.0,
        500.0,
    )
    for at, shape in enumerate(shapes):
        server = Server(989e12, 3.35e12, 450e9, tensor[at], stages[at])
        alone = token_s(ShapeCounts.of(shape), widths[at], server, batch[at], 1000.0, 500.0)
        assert together[at] == pytest.approx(float(alone), rel=1e-12)


def test_one_token_after_another_reads_every_weight_once() -> None:
    shape = shape_of("llama-3.1-8b")
    counts = ShapeCounts.of(shape)
    server = Server(989e12, 3.35e12, 450e9)
    least = 2.0 * float(touched_weights(counts, 1.0)) / (MEMORY_SHARE * 3.35e12)
    assert least < float(forward_s(counts, cached_width(shape), server, 1.0, 1.0, 1.0)) < 1.3 * least


def test_of_a_mixture_a_token_reads_its_experts_and_a_crowd_reads_all() -> None:
    assert float(experts_touched(256.0, 8.0, 1.0)) == pytest.approx(8.0)
    assert float(experts_touched(256.0, 8.0, 1e5)) == pytest.approx(256.0)
    assert float(experts_touched(0.0, 0.0, 7.0)) == 0.0
    drawn = np.random.default_rng(1)
    seen = [len({int(e) for _ in range(20) for e in drawn.choice(64, 4, replace=False)}) for _ in range(300)]
    assert float(experts_touched(64.0, 4.0, 20.0)) == pytest.approx(np.mean(seen), rel=0.02)


def test_copies_are_cut_until_they_fit() -> None:
    large, small = served(shape_of("gpt3-175b"), site_from_text("4x8xV100-32GB-SXM2")[0]), shape_of("llama-3.1-8b")
    assert large is not None
    assert large.tensor * large.stages * 32e9 > 2 * 175e9
    assert served(shape_of("gpt3-175b"), site_from_text("8xV100-32GB-SXM2")[0]) is None
    h200, h100 = (served(small, site_from_text(f"8x{name}")[0]) for name in ("H200-SXM", "H100-SXM"))
    assert h200 is not None
    assert h100 is not None
    assert h200.tokens_per_s > h100.tokens_per_s


def _published() -> list[dict[str, str]]:
    named = os.environ.get("DATAHALL_TRUTH")
    folders = ([Path(named)] if named else []) + [Path(__file__).resolve().parents[4] / "shared" / "truth"]
    for folder in folders:
        if (folder / "inference.csv").exists():
            with (folder / "inference.csv").open(encoding="utf-8") as file:
                return list(csv.DictReader(file))
    return []


MODELS = {
    "Qwen3-32B": "qwen3-32b", "Qwen3-235B-A22B-FP8": "qwen3-235b-a22b", "gpt-oss-120b": "gpt-oss-120b",
    "Llama-3.1-8B-Instruct": "llama-3.1-8b", "Llama-3.1-70B": "llama-3.1-70b", "Llama-2-70B": "llama-2-70b",
    "DeepSeek-V3": "deepseek-v3", "DeepSeek-R1": "deepseek-v3",
}  # fmt: skip
BITS = {"fp8": 1.0, "fp4": 0.5}


@pytest.mark.skipif(not _published(), reason="optional: the table of published serving figures is not here")
def test_published_figures_lie_about_the_forecast() -> None:
    errors: list[float] = []
    for row in _published():
        plain = row["disagg"] == "no" and row["spec_decode"] in ("", "none") and row["dp_attention"] != "yes"
        if row["quality"] != "A" or not row["tpot_ms"] or not plain or row["model"] not in MODELS:
            continue
        shape, card = shape_of(MODELS[row["model"]]), accelerators.accelerator(row["accelerator"])
        width = BITS.get(row["weight_dtype"], 2.0)
        peak = (card.peak_flops_per_s.get("fp8") if width <= 1 else None) or card.peak_flops_per_s["bf16"]
        link = links.link(card.scale_up_link).bytes_per_s
        cache = 1.0 if row["kv_dtype"] == "fp8" else 2.0
        server = Server(peak, card.memory_bytes_per_s, link, float(row["tp"]), float(row["pp"]), width, cache)
        load = (float(row[name]) for name in ("concurrency_or_batch", "input_len", "output_len"))
        forecast = float(token_s(ShapeCounts.of(shape), cached_width(shape), server, *load))
        errors.append(np.log(forecast / (float(row["tpot_ms"]) / 1e3)))
    sizes = np.abs(errors)
    assert len(sizes) > 1500
    assert np.median(sizes) < 0.30
    assert 0.85 < np.mean(sizes < np.log(INTERVAL)) < 0.99
