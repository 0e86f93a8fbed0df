"""Collectives on a torus, played link by link: the busiest link and the hops are what the formulas say."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from datahall.network.estimate import all_gather_s, all_to_all_s
from datahall.virtual.links import LinkRates

LINK_BYTES_PER_S = 50e9  # of one link in one direction
SHARD_BYTES = 1e6
SHAPES = [(16, 2, True), (8, 3, True), (4, 3, True), (8, 2, False), (4, 2, False)]  # side, axes, whether ends meet

Chip = tuple[int, ...]


def torus_of(side: int, dims: int, wrapped: bool, latency_s: float = 0.0) -> LinkRates:
    links = 2 * dims * LINK_BYTES_PER_S
    return LinkRates(links, latency_s, float(side**dims), 1e9, 1e-3, 1.0, 0.0, dims, side if wrapped else side + 1)


def ring_steps(side: int, wrapped: bool) -> tuple[int, float]:
    """Play a gather along one axis, both ways: rounds, and shards over the busiest directed link."""
    heard = {chip: {chip} for chip in range(side)}
    load: Counter[tuple[int, int]] = Counter()  # shards that a chip sends one way
    fresh = {(chip, way): {chip} for chip in range(side) for way in (1, -1)}  # what to pass on, and which way
    rounds = 0
    while any(len(known) < side for known in heard.values()):
        rounds += 1
        arriving: dict[tuple[int, int], set[int]] = {}
        for (chip, way), shards in fresh.items():
            other = (chip + way) % side
            if wrapped or other == chip + way:
                arriving[other, way] = shards - heard[other]
        for (chip, way), shards in arriving.items():
            twice = shards & arriving.get((chip, -way), set())  # half of it comes from each side
            load[(chip - way) % side, way] += len(shards) - 0.5 * len(twice)
        for (chip, _), shards in arriving.items():
            heard[chip] |= shards
        fresh = arriving
    return rounds, max(load.values())


@pytest.mark.parametrize(("side", "dims", "wrapped"), SHAPES)
def test_a_gather_keeps_the_busiest_link_as_long_as_the_formula_says(side: int, dims: int, wrapped: bool) -> None:
    # The payload goes in `dims` parts, each along the axes in another order, so that all links are busy all the time.
    seconds, held = 0.0, SHARD_BYTES
    for _ in range(dims):
        _, busiest = ring_steps(side, wrapped)
        seconds += busiest * held / dims / LINK_BYTES_PER_S
        held *= side
    ranks = float(side**dims)
    rate, hop = torus_of(side, dims, wrapped).group(ranks, 1.0)
    assert all_gather_s(SHARD_BYTES * ranks, ranks, rate, hop) == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize(("side", "dims", "wrapped"), SHAPES)
def test_its_hops_are_those_of_its_axes_one_after_another(side: int, dims: int, wrapped: bool) -> None:
    rounds, _ = ring_steps(side, wrapped)
    ranks = float(side**dims)
    rate, hop = torus_of(side, dims, wrapped, latency_s=1e-6).group(ranks, 1.0)
    assert all_gather_s(0.0, ranks, rate, hop) == pytest.approx(dims * rounds * 1e-6, rel=1e-9)


@pytest.mark.parametrize(("side", "dims", "wrapped"), SHAPES)
def test_an_all_to_all_crowds_the_links_in_the_middle(side: int, dims: int, wrapped: bool) -> None:
    chips = list(itertools.product(range(side), repeat=dims))
    load: Counter[tuple[Chip, int, int]] = Counter()
    origin = chips[0]
    sources = [origin] if wrapped else chips  # of a torus every chip sees the same
    for source in sources:
        for target in chips:
            for link, share in _path(source, target, side, wrapped):
                load[link] += share
    # Of a torus one source's load on all links, spread over them, is what all sources put on each.
    busiest = sum(load.values()) / (2 * dims) if wrapped else max(load.values())
    ranks = float(len(chips))
    seconds = busiest * SHARD_BYTES / LINK_BYTES_PER_S
    assert torus_of(side, dims, wrapped).exchanged_near_s(SHARD_BYTES * ranks, ranks) == pytest.approx(seconds)


def _path(source: Chip, target: Chip, side: int, wrapped: bool) -> list[tuple[tuple[Chip, int, int], float]]:
    """The links of a shortest path, one axis after another; half each way where both are as short."""
    found: list[tuple[tuple[Chip, int, int], float]] = []
    at = list(source)
    for axis, goal in enumerate(target):
        ahead = (goal - at[axis]) % side
        ways = [(1, ahead, 1.0)] if ahead < side - ahead else [(-1, side - ahead, 1.0)]
        if wrapped and 2 * ahead == side:
            ways = [(1, ahead, 0.5), (-1, ahead, 0.5)]
        if not wrapped:
            ways = [(1 if goal > at[axis] else -1, abs(goal - at[axis]), 1.0)]
        for way, steps, share in ways:
            here = list(at)
            for _ in range(steps):
                found.append(((tuple(here), axis, way), share))
                here[axis] = (here[axis] + way) % side
        at[axis] = goal
    return found


def test_a_group_along_one_axis_has_the_links_of_one() -> None:
    links = torus_of(16, 2, True)
    assert links.group(16.0, 1.0)[0] == pytest.approx(2 * LINK_BYTES_PER_S)
    assert links.group(4.0, 1.0)[0] == pytest.approx(LINK_BYTES_PER_S)  # part of an axis is no ring
    assert links.neighbour_bytes_per_s == LINK_BYTES_PER_S


@pytest.mark.parametrize(("chips", "links"), [(2, 1), (4, 2), (8, 3)])
def test_a_slice_of_few_chips_has_the_links_that_lead_to_one(chips: int, links: int) -> None:
    wired = LinkRates(6 * LINK_BYTES_PER_S, 1e-6, float(chips), 1e9, 1e-3, 1.0, 0.0, 3.0, 4.0)
    rate, hop = wired.group(float(chips), 1.0)
    assert rate == pytest.approx(links * LINK_BYTES_PER_S)
    assert (chips - 1) * hop == pytest.approx(links * 1e-6)


def test_a_switch_is_as_before() -> None:
    links = LinkRates(450e9, 3e-6, 8.0, 50e9, 5e-6)
    ranks = np.array([1.0, 2.0, 8.0])
    rate, hop = links.near(ranks)
    assert np.all(rate == 450e9)
    assert np.all(hop == 3e-6)
    whole = links.exchanged_near_s(1e9, ranks)
    assert whole == pytest.approx([all_to_all_s(1e9, n, 450e9, 3e-6) for n in ranks])
