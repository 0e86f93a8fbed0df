"""Constants of generation come back from times that they made, and what was left out decides the interval."""

import numpy as np
import pytest

from datahall.calibrate.generation import LEAST_SPREAD, fit_generation, non_negative
from datahall.real.generation_probe import prompt_points, step_points
from datahall.virtual.generation import next_token_s, prompt_s


def findings(bend=1.0):
    prompts = [(n, s, [float(prompt_s(n, s, 2e-3, 1e-4, 3e-8)) * (bend if n > 100 else 1)] * 3)
               for n, s in prompt_points(512)]  # fmt: skip
    steps = [(b, s, [float(next_token_s(b, s, 5e-3, 2e-4, 1e-7))] * 3) for b, s in step_points(512, 32, 4)]
    moves = {kind: [(size, 0, [1e-5 + size * 1e-9]) for size in (1000, 4000)] for kind in ("look", "fill", "keep")}
    return {"prompts": prompts, "steps": steps, **moves, "touch": moves["fill"], "read": [], "write": []}


def test_the_constants_come_back():
    costs = fit_generation(findings())
    assert (costs.prompt_fixed_s, costs.prompt_token_s, costs.prompt_pair_s) == pytest.approx((2e-3, 1e-4, 3e-8))
    assert (costs.step_fixed_s, costs.step_row_s, costs.step_pair_s) == pytest.approx((5e-3, 2e-4, 1e-7))
    assert (costs.fill.block_s, costs.fill.byte_s) == pytest.approx((1e-5, 1e-9))
    assert costs.read.of(3, 100) == 0
    assert costs.prompt_spread == costs.step_spread == LEAST_SPREAD


def test_lengths_that_the_formula_misses_widen_the_interval():
    assert fit_generation(findings(bend=1.5)).prompt_spread > LEAST_SPREAD


def test_no_constant_is_below_zero():
    found = non_negative(np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([3.0, 2.0, 1.0]))
    assert (found >= 0).all()
    assert found[1] == 0
