"""More workers than cores: the closed forms beside what is played, pass by pass and meeting by meeting."""

import random

import pytest

from datahall.virtual.step_time import bubble_share, crowded_pipeline, waited_at_meetings_s

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


@pytest.mark.parametrize(("stages", "batches", "cores"), [(4, 8, 2), (4, 16, 2), (2, 4, 1)])
@pytest.mark.parametrize("slice_s", [0.3, 1.0, 9.0])
def test_stages_that_take_slices_of_a_core_wait_for_each_other_more_and_end_at_the_same_time(
    stages, batches, cores, slice_s
):
    whole, idle = crowded_pipeline(stages, batches, stages / cores, 1.0)
    both = FORWARD_S + BACKWARD_S
    queued = (whole - idle - batches) * both
    more = waited_at_meetings_s(queued, batches * both, 1.5 * batches, slice_s)
    orders = [_order(stages, batches, stage, "1f1b") for stage in range(stages)]
    seconds, blocked, _ = _play_in_slices([(orders, stages)], cores, slice_s)
    assert seconds == pytest.approx(whole * both, rel=0.04)
    assert blocked / stages / seconds == pytest.approx((idle * both + more) / (whole * both), abs=0.03)


@pytest.mark.parametrize(("slice_s", "off"), [(0.1, 0.04), (0.3, 0.09), (3.0, 0.04), (10.0, 0.04)])
def test_half_of_what_shared_cores_cost_is_spent_at_meetings_where_slices_are_longer_than_what_lies_between(
    slice_s, off
):
    """Two groups of two ranks meet after nearly equal times on two cores."""
    ranks = [[("M", rank, meeting) for meeting in range(40)] for rank in range(2)]
    played = [_play_in_slices([(ranks, 2)] * 2, 2, slice_s, unequal=0.1, seed=seed) for seed in range(4)]
    blocked, queued = (sum(one[part] for one in played) for part in (1, 2))
    assert waited_at_meetings_s(1.0, 40.0, 40.0, slice_s) == pytest.approx(blocked / (blocked + queued), abs=off)


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


def _play_in_slices(groups, cores, slice_s, unequal=0.0, seed=0):
    """Seconds of the play, and of all workers those in which they wait for others and those in which for a core.

    A worker keeps a core for `slice_s` while others want it, then goes to the end of the queue.  `groups` are workers'
    orders and their number; M is an action that ends in a meeting of the group, and takes up to `unequal` more or less.
    """
    chance, passed = random.Random(seed), 0.02
    lasts = {"F": FORWARD_S, "B": BACKWARD_S, "M": 1.0}
    workers = [(orders[one], group, size) for group, (orders, size) in enumerate(groups) for one in range(size)]
    todo = [[(a, lasts[a[0]] * (1 + unequal * chance.uniform(-1, 1))) for a in order] for order, _, _ in workers]
    done = [set() for _ in groups]
    at, left, used = [0] * len(workers), [order[0][1] for order in todo], [0.0] * len(workers)
    queue, running = [], []
    seconds = blocked = queued = 0.0
    while any(at[one] < len(order) for one, order in enumerate(todo)):
        for one, (order, group, size) in enumerate(workers):
            free = one not in queue and one not in running and at[one] < len(order)
            if free and _ready(order[at[one]], done[group], size):
                queue.append(one)
        for one in [one for one in running if used[one] >= slice_s and queue]:
            running.remove(one)
            queue.append(one)
        while queue and len(running) < cores:
            running.append(queue.pop(0))
            used[running[-1]] = 0.0
        seconds, queued = seconds + passed, queued + passed * len(queue)
        blocked += passed * (len(workers) - len(queue) - len(running))
        for one in list(running):
            order, group, size = workers[one]
            left[one], used[one] = left[one] - passed, used[one] + passed
            if left[one] < 1e-9:
                done[group].add(order[at[one]])
                at[one] += 1
                left[one] = todo[one][at[one]][1] if at[one] < len(order) else 0.0
                if at[one] == len(order) or not _ready(order[at[one]], done[group], size):
                    running.remove(one)
    return seconds, blocked, queued


def _ready(action, done, stages):
    kind, stage, batch = action
    if kind == "M":
        return batch == 0 or all(("M", rank, batch - 1) in done for rank in range(stages))
    if kind == "F":
        return stage == 0 or ("F", stage - 1, batch) in done
    return ("F", stage, batch) in done and (stage == stages - 1 or ("B", stage + 1, batch) in done)
