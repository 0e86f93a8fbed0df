"""The bubble of textbook schedules by their order, and orders that cannot be."""

import pytest

from datahall.base.errors import UsageError
from datahall.compute.numbers import BUBBLE_SHARES, PlanNumbers
from datahall.compute.schedule import idle_share
from datahall.virtual.step_time import bubble_share


def gpipe(stages, batches):
    return [
        [("F", stage, batch) for batch in range(batches)] + [("B", stage, batch) for batch in range(batches)]
        for stage in range(stages)
    ]


def one_forward_one_backward(stages, batches):
    orders = []
    for stage in range(stages):
        ahead = min(stages - 1 - stage, batches)
        order = [("F", stage, batch) for batch in range(ahead)]
        for batch in range(batches):
            order += [("F", stage, batch + ahead)] if batch + ahead < batches else []
            order.append(("B", stage, batch))
        orders.append(order)
    return orders


@pytest.mark.parametrize("schedule", [gpipe, one_forward_one_backward])
@pytest.mark.parametrize(("stages", "batches"), [(1, 3), (2, 4), (4, 8), (4, 4)])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 2.5])
def test_order_gives_the_textbook_bubble(schedule, stages, batches, ratio):
    assert idle_share(schedule(stages, batches), stages, ratio) == pytest.approx(bubble_share(stages, batches))


def zero_bubble(stages, batches):
    """ZB-H1: as 1F1B, but each worker puts as many halves of its backward passes off as there are stages before it."""
    orders = []
    for stage, order in enumerate(one_forward_one_backward(stages, batches)):
        halves = []
        for kind, _, batch in order:
            halves.append(("I" if kind == "B" else kind, stage, batch))
            halves += [("W", stage, batch - stage)] if kind == "B" and batch >= stage else []
        orders.append([*halves, *[("W", stage, batch) for batch in range(max(0, batches - stage), batches)]])
    return orders


@pytest.mark.parametrize(("stages", "batches"), [(2, 4), (4, 4), (4, 8), (4, 6), (2, 1), (4, 1), (4, 3), (8, 5)])
def test_half_backward_passes_leave_the_bubble_that_is_forecast(stages, batches):
    plan = PlanNumbers(pipeline=stages, accumulation=batches, bubble_share=BUBBLE_SHARES["zero-bubble"])
    expected = bubble_share(stages, batches, 1.0 / plan.fill_share)
    assert idle_share(zero_bubble(stages, batches), stages) == pytest.approx(expected)


def test_a_worker_that_waits_more_is_idle_longer():
    late = gpipe(2, 4)
    late[1][4:] = reversed(late[1][4:])
    assert idle_share(late, 2) > bubble_share(2, 4)


def test_orders_that_wait_for_each_other_are_refused():
    with pytest.raises(UsageError, match="in a circle"):
        idle_share([[("B", 0, 0), ("F", 0, 0)]], 1)
