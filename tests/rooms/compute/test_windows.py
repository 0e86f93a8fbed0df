"""Keys that windows and chunks let a query see, beside counting them one by one."""

from dataclasses import replace

import pytest

from datahall.case.model import ModelShape
from datahall.compute.counts import ShapeCounts

SHAPE = ModelShape("windowed", layers=4, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=128, vocab=256)


def seen(sequence: int, window: int, chunked: bool) -> float:
    """Keys of a causal query, a token's own left half out, on average: what half of `ShapeCounts.keys` says."""
    begins = [query // window * window if chunked else max(0, query - window) for query in range(sequence)]
    return sum(query - begin for query, begin in enumerate(begins)) / sequence


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("sequence", "window"), [(4096, 512), (4096, 4096), (1024, 4096), (32768, 4096)])
def test_half_of_the_keys_are_those_that_a_causal_query_sees(sequence: int, window: int, chunked: bool) -> None:
    counts = ShapeCounts.of(replace(SHAPE, window=window, window_share=1.0, chunked=chunked))
    assert counts.keys(sequence) / 2 == pytest.approx(seen(sequence, window, chunked), abs=0.6)


def test_layers_without_a_window_see_everything() -> None:
    counts = ShapeCounts.of(replace(SHAPE, window=512, window_share=0.25))
    assert counts.keys(4096) == 0.75 * 4096 + 0.25 * 512 * (2 - 512 / 4096)
    assert ShapeCounts.of(SHAPE).keys(4096) == 4096
