"""Which of several plans is taken: the best by what the forecast can tell apart, and of those the simplest.

The search ranks by it, and forecasts of published runs are judged by it.  What a plan is worth is for others to say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datahall.compute.numbers import PlanNumbers

SAME_SHARE = 0.02  # plans closer than this are one to the forecast: the simpler is taken
RISK_SHARE = 0.05  # that a plan which may not fit has to be better by, beside that, to be worth the trial


def preferred(values: Any, plans: PlanNumbers, narrow: Any = 0, seconds: Any = 1.0) -> NDArray[np.int64]:
    """Indices of plans, the one to take first.

    `values` is what the goal makes small (seconds, dollars, joules), in steps of `SAME_SHARE` from the least of those
    that surely fit; `plans` are as many; `narrow` is 1 where memory may not suffice, for which `RISK_SHARE` is added
    and which loses among equals.  Where the goal is not time, `seconds` tell which of equals is sooner done: thrice the
    devices for a third of the time cost the same.
    """
    values, seconds, tight = (np.broadcast_to(one, np.shape(values)) for one in (values, seconds, narrow))
    sure = tight == 0 if not np.all(tight) else np.ones_like(tight, dtype=bool)
    risked = values * np.where(tight == 0, 1.0, 1.0 + RISK_SHARE)
    dear = _steps(risked, risked[sure].min())
    late = _steps(seconds, seconds[sure & (dear == 0)].min())
    return np.lexsort((values, complexity(plans), late, tight, dear))


def complexity(plans: PlanNumbers) -> Any:
    """How much there is to set up and to go wrong in plans, in doublings of a degree; only the order matters."""
    degrees = np.log2(plans.tensor) + np.log2(plans.context) + np.log2(plans.expert)
    pipeline = 1.5 * np.log2(plans.pipeline) + 0.5 * np.log2(plans.virtual_stages)
    halves = np.asarray(plans.bubble_share) < 1.0  # of backward passes, which few engines can do
    whole = (np.asarray(plans.tensor) > 1) & (np.asarray(plans.sequence_parallel) == 0)  # few leave that out
    degrees = degrees + 3.0 * halves + 0.1 * whole
    return degrees + pipeline + 0.3 * (plans.zero_stage > 0) + 0.2 * (plans.shard_group > 0) + 0.1 * plans.recompute


def _steps(values: Any, least: Any) -> Any:
    """How many times `SAME_SHARE` above the least of some (below it, where another has less)."""
    return np.trunc(np.log(np.maximum(values, 1e-12) / np.maximum(least, 1e-12)) / np.log1p(SAME_SHARE))
