"""What textbooks say of a step: the pipeline bubble, the bytes of a ring, rings that are too long."""

from __future__ import annotations

import numpy as np
import pytest

from datahall.network.estimate import halving_doubling_all_reduce_s, ring_all_reduce_s
from datahall.virtual.step_time import bubble_share


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 8), (4, 8), (8, 64), (16, 16)])
def test_the_bubble_of_a_pipeline_is_p_minus_1_over_m_plus_p_minus_1(stages: int, micro_batches: int) -> None:
    # A stage works m micro-steps; the last begins p - 1 later, or the first ends p - 1 sooner.
    timeline = np.zeros((stages, micro_batches + stages - 1))
    for stage in range(stages):
        timeline[stage, stage : stage + micro_batches] = 1
    assert bubble_share(stages, micro_batches) == pytest.approx(1 - timeline.mean())
    assert bubble_share(stages, micro_batches, 2) <= bubble_share(stages, micro_batches)


@pytest.mark.parametrize("ranks", [2, 3, 8, 512])
def test_a_ring_sends_2_n_minus_1_over_n_of_its_payload(ranks: int) -> None:
    payload, rate = 1e9, 1e9
    chunk = payload / ranks
    rounds = 2 * (ranks - 1)  # scatter, then gather, one chunk a round
    assert ring_all_reduce_s(payload, ranks, rate, 0.0) == pytest.approx(rounds * chunk / rate)


def test_a_long_ring_loses_to_halving_doubling_by_tens_on_a_small_message() -> None:
    ring = ring_all_reduce_s(1e6, 512, 50e9, 10e-6)
    halving = halving_doubling_all_reduce_s(1e6, 512, 50e9, 10e-6)
    assert 20 < ring / halving < 100
