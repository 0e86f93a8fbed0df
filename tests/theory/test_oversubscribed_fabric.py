"""Fat trees with fewer ways up than ports: a ring's bytes are counted switch by switch and laid beside the formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datahall.case import from_model_and_site
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.estimate import all_gather_s
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan
from datahall.virtual.links import LinkRates
from datahall.virtual.training import forecast

PORT = 50e9  # bytes/s of each device


def played_ring_s(payload: float, ranks: int, stride: int, pod: int, oversubscription: float) -> float:
    """Seconds of `stride` all-gathers at once, one rank of each on every `stride`-th device, step by step."""
    total = 0.0
    for _ in range(ranks - 1):
        up = np.zeros(-(-ranks * stride // pod))  # bytes that leave each pod in this step
        for group in range(stride):
            devices = group + stride * np.arange(ranks)
            pods = devices // pod
            up += np.bincount(pods[pods != np.roll(pods, -1)], minlength=len(up)) * payload / ranks
        total += max(payload / ranks / PORT, up.max() / (pod * PORT / oversubscription))
    return total


@pytest.mark.parametrize("oversubscription", [1.0, 2.0, 4.0, 7.0])
@pytest.mark.parametrize(("ranks", "stride", "pod"), [(8, 8, 32), (32, 1, 8), (16, 4, 16), (16, 8, 8), (4, 16, 64)])
def test_a_ring_over_pods_is_as_fast_as_its_busiest_switch(
    ranks: int, stride: int, pod: int, oversubscription: float
) -> None:
    links = LinkRates(900e9, 0.0, 1.0, PORT, 0.0, oversubscription, float(pod))
    played = played_ring_s(1e9, ranks, stride, pod, oversubscription)
    assert all_gather_s(1e9, ranks, *links.group(ranks, stride)) == pytest.approx(played, rel=1e-9)


def a_step_s(topology: str, oversubscription: float, pod_devices: int = 0, tensor: int = 1) -> float:
    case = from_model_and_site("llama-3.1-8b", "64xdgx-h100", tokens=1e9, global_batch=1024)
    site = replace(case.site, topology=topology, oversubscription=oversubscription, pod_devices=pod_devices)
    case = replace(case, site=site)
    compute = ComputePlan(data=512 // tensor, tensor=tensor, zero_stage=3, accumulation=2 * tensor, precision="bf16")
    plan = Plan(compute, StoragePlan(), NetworkPlan(), case.hash())
    return forecast(case, plan).metrics["step_time"].value


def test_topology_counts_where_the_network_is_oversubscribed_and_only_there() -> None:
    assert len({a_step_s(topology, 1.0) for topology in ("switch", "rail", "fat-tree")}) == 1
    node, tree, rail = (a_step_s(topology, 8.0, tensor=8) for topology in ("switch", "fat-tree", "rail"))
    assert node > tree > rail  # pods of a node, of 7 nodes under one leaf, of 56 nodes on eight rails
    assert a_step_s("fat-tree", 8.0, 512, tensor=8) == a_step_s("fat-tree", 1.0, tensor=8)  # one pod holds all


def test_pods_of_usual_leaf_switches() -> None:
    site = from_model_and_site("gpt2", "64xdgx-h100", tokens=1e9).site
    assert replace(site, topology="fat-tree", oversubscription=3.0).pod == 48  # 48 of 64 ports go down, 16 up
    assert replace(site, topology="rail", oversubscription=3.0).pod == 48 * 8
    assert replace(site, topology="switch", oversubscription=3.0).pod == 8
    assert replace(site, oversubscription=3.0, pod_devices=256).pod == 256
