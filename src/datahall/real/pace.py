"""How fast this machine is at this moment beside other moments: the same small piece of work, timed again and again.

Neighbours on a shared machine change its pace by a tenth and more within minutes, one core's otherwise than all cores'.
The work is what the probe times as well: products, attention, element-wise work, forward and backward.  Only ratios of
readings mean anything; no rate follows from one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from datahall.real.probe_timing import Timing, time_together
from datahall.real.turns import turn

_TOKENS, _INNER, _OUTER = 1024, 128, 384
_HEADS = (8, 4, 128, 32)  # batch, heads, sequence, head_dim
_FEWEST, _MOST = 5, 500


def read_pace(budget_s: float) -> dict[int, Timing]:
    """By number of threads (one, and one for each core): the work's time now, in about `budget_s` seconds each."""
    cores, before = os.cpu_count() or 1, torch.get_num_threads()
    work, found = _work(), dict[int, Timing]()
    try:
        with turn():
            for threads in sorted({1, cores}):
                torch.set_num_threads(threads)
                found[threads] = time_together(work, _repeats(work, budget_s))
    finally:
        torch.set_num_threads(before)
    return found


def _work() -> Callable[[], None]:
    inputs = torch.ones(_TOKENS, _INNER, requires_grad=True)
    weight = torch.ones(_OUTER, _INNER, requires_grad=True)
    query, key, value = (torch.ones(_HEADS, requires_grad=True) for _ in range(3))

    def work() -> None:
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        total = functional.silu(functional.linear(inputs, weight)).sum() + mixed.sum()
        torch.autograd.grad(total, (inputs, weight, query, key, value))

    return work


def _repeats(work: Callable[[], None], budget_s: float) -> int:
    """As many as fit into the budget, by one after a first one that finds its threads."""
    work()
    began_s = time.perf_counter()
    work()
    return min(_MOST, max(_FEWEST, int(budget_s / (time.perf_counter() - began_s))))
