"""The bubble of a pipeline by the order of its work: what each worker would wait for if transfers took no time.

The order comes from a run (each worker notes what it does) or from anywhere else.  Nothing here is measured in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from datahall.base.errors import UsageError

Action = tuple[str, int, int]  # F, B or B's halves I (of inputs) and W (of weights); stage; micro-batch


def idle_share(orders: Sequence[Sequence[Action]], stages: int, backward_over_forward: float = 2.0) -> float:
    """Share of all workers' time in which they stand still, when every stage takes as long as every other.

    `orders` holds each worker's actions; the halves of a backward pass take equally long.  UsageError when the orders
    wait for each other in a circle.
    """
    half = backward_over_forward / 2.0
    lasts = {"F": 1.0, "B": backward_over_forward, "I": half, "W": half}
    done: dict[Action, float] = {}
    clock, at = [0.0] * len(orders), [0] * len(orders)
    work = 0.0
    while any(at[worker] < len(order) for worker, order in enumerate(orders)):
        ready = [
            worker
            for worker, order in enumerate(orders)
            if at[worker] < len(order) and _ready(order[at[worker]], done, stages)
        ]
        if not ready:
            raise UsageError("the orders of a pipeline's workers wait for each other in a circle.")
        for worker in ready:
            action = orders[worker][at[worker]]
            seconds = lasts[action[0]]
            begin = max([clock[worker], *[done[earlier] for earlier in _earlier(action, stages)]])
            clock[worker] = done[action] = begin + seconds
            work += seconds
            at[worker] += 1
    return 1.0 - work / (len(orders) * max(clock))


def _ready(action: Action, done: dict[Action, float], stages: int) -> bool:
    return all(earlier in done for earlier in _earlier(action, stages))


def _earlier(action: Action, stages: int) -> list[Action]:
    """What has to be done before: the stage before (forward), the stage behind and one's own forward (backward)."""
    kind, stage, batch = action
    if kind == "F":
        return [("F", stage - 1, batch)] if stage else []
    if kind == "W":
        return [("I", stage, batch)]
    behind: list[Action] = [(kind, stage + 1, batch)] if stage < stages - 1 else []
    return [("F", stage, batch), *behind]
