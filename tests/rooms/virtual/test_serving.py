"""The forecast of inference: arrays answer as scalars do, limits are textbook ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.case.named_model import shape_of
from datahall.case.named_site import site_from_text
from datahall.compute.counts import ShapeCounts, stack_counts
from datahall.compute.estimate import experts_touched
from datahall.search.served import served
from datahall.virtual.serving import Server, cached_width, pass_s, sequences_held, token_s, touched_weights
from datahall.virtual.serving_constants import ServingConstants, shipped

CONSTANTS = ServingConstants(0.7, 0.75, 20e-6, 30e-6)
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
    batch, tensor, stages = (np.array([float(row[at]) for row in rows]) for at in (1, 2, 3))
    widths = [float(cached_width(shape, ranks)) for shape, ranks in zip(shapes, tensor, strict=True)]
    together = token_s(
        stack_counts([ShapeCounts.of(shape) for shape in shapes]),
        np.array(widths),
        Server(989e12, 3.35e12, 450e9, tensor, stages),
        CONSTANTS,
        batch,
        1000.0,
        500.0,
    )
    for at, shape in enumerate(shapes):
        server = Server(989e12, 3.35e12, 450e9, tensor[at], stages[at])
        alone = token_s(ShapeCounts.of(shape), widths[at], server, CONSTANTS, batch[at], 1000.0, 500.0)
        assert together[at] == pytest.approx(float(alone), rel=1e-12)


def test_one_token_after_another_reads_every_weight_once() -> None:
    shape = shape_of("llama-3.1-8b")
    counts = ShapeCounts.of(shape)
    server = Server(989e12, 3.35e12, 450e9)
    least = 2.0 * float(touched_weights(counts, 1.0)) / (CONSTANTS.memory_share * 3.35e12)
    assert least < float(pass_s(counts, cached_width(shape), server, CONSTANTS, 1.0, 1.0)) < 1.3 * least


def test_prompts_are_read_in_the_passes_that_answer() -> None:
    shape = shape_of("llama-3.1-8b")
    counts, server = ShapeCounts.of(shape), Server(989e12, 3.35e12, 450e9)
    load = counts, cached_width(shape), server, CONSTANTS
    alone, both = float(pass_s(*load, 8.0, 1000.0)), float(pass_s(*load, 8.0, 1000.0, 1.0, 1000.0))
    weights = 2.0 * float(touched_weights(counts, 1.0)) / (CONSTANTS.memory_share * 3.35e12)
    products = 2.0 * 1000.0 * counts.layer_weights / (CONSTANTS.product_share * 989e12)
    assert max(alone, products) < both < alone + products, "weights that are read once hide behind the products"
    assert float(token_s(*load, 8.0, 1000.0, 1e12)) == pytest.approx(float(pass_s(*load, 8.0, 1000.0 + 0.5e12)))
    assert weights < alone


def test_each_constant_slows_what_it_is_of() -> None:
    shape = shape_of("llama-3.1-70b")
    counts, server = ShapeCounts.of(shape), Server(989e12, 3.35e12, 450e9, tensor=8.0)
    load = 1.0, 1000.0, 1000.0

    def seconds(**changes: float) -> float:
        return float(token_s(counts, cached_width(shape, 8.0), server, replace(CONSTANTS, **changes), *load))

    plain = seconds()
    assert seconds(layer_s=120e-6) - plain == pytest.approx(80 * 100e-6)
    assert seconds(reduce_s=130e-6) - plain == pytest.approx(2 * 80 * 100e-6)
    assert seconds(memory_share=0.375) > 1.3 * plain
    assert plain < seconds(product_share=0.35) < 1.1 * plain, "one sequence is ruled by bytes"


def test_ranks_beyond_the_heads_of_keys_and_values_hold_copies() -> None:
    grouped, latent = shape_of("qwen3-235b-a22b"), shape_of("deepseek-v3")
    assert [float(cached_width(grouped, ranks)) for ranks in (1, 4, 8)] == [1024.0, 1024.0, 2048.0]
    assert [float(cached_width(latent, ranks)) for ranks in (1, 8)] == [576.0, 8 * 576.0]
    held = [float(sequences_held(latent, 141e9, Server(1.0, 1.0, 1.0, 8.0, stages), 2048)) for stages in (2.0, 4.0)]
    assert held[1] > 2 * held[0] > 0
    assert float(sequences_held(latent, 16e9, Server(1.0, 1.0, 1.0, 8.0), 2048)) < 1


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
    assert h200.factor == shipped().factor > 1
