"""A pipeline with more stages than cores: the closed form beside its schedule played, micro-batch by micro-batch."""

import pytest

from datahall.virtual.step_time import bubble_share, crowded_pipeline

FORWARD_S, BACKWARD_S = 1.0, 2.0


@pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("stages", "batches", "cores"), [(4, 8, 2), (4, 16, 2), (4, 8, 3), (2, 4, 1), (6, 12, 2)])
def test_length_and_idle_share_are_those_of_the_schedule_played(kind, stages, batches, cores):
    whole, idle = crowded_pipeline(stages, batches, stages / cores, 1.0)
    seconds, busy = _play([_order(stages, batches, stage, kind) for stage in range(stages)], cores)
    micro_batch_s = FORWARD_S + BACKWARD_S
    assert whole * micro_batch_s == pytest.approx(seconds, rel=0.04)
    assert idle / whole == pytest.approx(1.0 - sum(busy) / len(busy) / seconds, abs=0.04)


def test_with_a_core_for_each_stage_it_is_the_bubble():
    whole, idle = crowded_pipeline(4, 8, 1.0, 1.0)
    assert idle / whole == pytest.approx(bubble_share(4, 8))
    assert whole == 11


@pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
def test_a_longer_last_stage_is_waited_for_in_every_micro_batch_but_not_in_fill_and_drain(kind):
    seconds, _ = _play([_order(4, 8, stage, kind) for stage in range(4)], 4, head=1.2)
    micro_batch_s = FORWARD_S + BACKWARD_S
    assert seconds == pytest.approx(8 * 1.2 * micro_batch_s + 3 * micro_batch_s, rel=0.04)


def _order(stages, batches, stage, kind):
    if kind == "gpipe":
        return [("F", stage, one) for one in range(batches)] + [("B", stage, one) for one in range(batches)]
    warm = min(batches, stages - stage)
    order = [("F", stage, one) for one in range(warm)]
    for one in range(warm, batches):
        order += [("B", stage, one - warm), ("F", stage, one)]
    return order + [("B", stage, one) for one in range(batches - warm, batches)]


def _play(orders, cores, head=1.0):
    """Seconds, and those in which each stage has work in hand, when all that can work share the cores evenly.

    The last stage's work takes `head` times as long.
    """
    at, left, busy = [0] * len(orders), [0.0] * len(orders), [0.0] * len(orders)
    done, seconds = set(), 0.0
    while any(at[stage] < len(order) for stage, order in enumerate(orders)):
        working = [
            s for s, order in enumerate(orders) if at[s] < len(order) and _ready(order[at[s]], done, len(orders))
        ]
        for stage in working:
            once = FORWARD_S if orders[stage][at[stage]][0] == "F" else BACKWARD_S
            left[stage] = left[stage] or once * (head if stage == len(orders) - 1 else 1.0)
        speed = min(1.0, cores / len(working))
        passed = min(left[stage] for stage in working) / speed
        seconds += passed
        for stage in working:
            busy[stage] += passed
            left[stage] = left[stage] - passed * speed
            if left[stage] < 1e-9:
                done.add(orders[stage][at[stage]])
                at[stage], left[stage] = at[stage] + 1, 0.0
    return seconds, busy


def _ready(action, done, stages):
    kind, stage, batch = action
    if kind == "F":
        return stage == 0 or ("F", stage - 1, batch) in done
    return ("F", stage, batch) in done and (stage == stages - 1 or ("B", stage + 1, batch) in done)
