"""A plan's checkpoints: the codec that pays on the disk at hand, the copy's stall, and a disk that all nodes share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datahall.base.errors import UsageError
from datahall.case.model import ModelShape
from datahall.case.named_site import site_from_text
from datahall.case.question import Case, Goal, Training
from datahall.case.site import Disk
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan
from datahall.storage.choice import CodecRate
from datahall.storage.plan import StoragePlan
from datahall.virtual.checkpoints import (
    checkpoint_bytes,
    checkpoint_seconds,
    codec_sentence,
    disk_bytes,
    on_one_disk,
    picked_codec,
    staged_bytes,
)

SHAPE = ModelShape("small", layers=4, hidden=1024, heads=8, kv_heads=8, head_dim=128, ffn=4096, vocab=32000)
PLAN = PlanNumbers.of(ComputePlan(data=16, zero_stage=1))


def a_case(disk: Disk) -> Case:
    site = replace(site_from_text("2x8xH100-SXM")[0], disk=disk, host_cores=64)
    return Case("a case", SHAPE, Training(1e9, 64, 2048), site, Goal())


def test_the_plan_compresses_only_where_it_pays_and_says_below_which_rate() -> None:
    slow, fast = a_case(Disk(5e8, 5e8, 0.01)), a_case(Disk(30e9, 30e9, 0.001))
    assert picked_codec(slow, PLAN, 4) == "planes"
    assert picked_codec(fast, PLAN, 4) == "none"
    assert "planes pays below" in codec_sentence(fast, StoragePlan(shards=4), PLAN)
    coded, plain = StoragePlan(shards=4, codec="planes"), StoragePlan(shards=4)
    assert (
        checkpoint_seconds(slow, coded, PLAN, hidden_s=0.0).write
        < 0.9 * checkpoint_seconds(slow, plain, PLAN, hidden_s=0.0).write
    )
    assert (
        checkpoint_seconds(fast, coded, PLAN, hidden_s=0.0).write
        > checkpoint_seconds(fast, plain, PLAN, hidden_s=0.0).write
    )
    crawling = [CodecRate("planes", 1.2, 1e6, 1e6)]
    assert picked_codec(slow, PLAN, 4, crawling) == "none"


def test_a_plan_rounds_only_what_its_case_allows() -> None:
    exact = a_case(Disk(5e8, 5e8, 0.01))
    rounded = replace(exact, application=replace(exact.application, lossy_checkpoint="bf16"))
    assert picked_codec(exact, PLAN, 4) == "planes"
    assert picked_codec(rounded, PLAN, 4) == "lossy-bf16"
    assert picked_codec(replace(rounded, site=a_case(Disk(300e9, 300e9, 0.0)).site), PLAN, 4) == "none"
    with pytest.raises(UsageError, match="lossy_checkpoint"):
        checkpoint_seconds(exact, StoragePlan(shards=4, codec="lossy-bf16"), PLAN, hidden_s=0.0)


def test_one_disk_for_the_site_is_shared_by_its_nodes() -> None:
    own, shared = Disk(2e9, 4e9, 0.0), Disk(2e9, 4e9, 0.0, shared=True)
    alone = checkpoint_seconds(a_case(own), StoragePlan(), PLAN, hidden_s=0.0)
    together = checkpoint_seconds(a_case(shared), StoragePlan(), PLAN, hidden_s=0.0)
    assert together.write == pytest.approx(2 * alone.write)
    assert alone.write == pytest.approx(checkpoint_bytes(a_case(own)) / (2 * 2e9))
    assert alone.read == pytest.approx(alone.write / 2)


def test_a_background_save_copies_what_a_rank_holds_beside_the_step() -> None:
    case = a_case(Disk(2e9, 4e9, 0.0))
    parameters = case.model.parameters()
    assert staged_bytes(case, PlanNumbers()) == pytest.approx(12 * parameters)
    assert staged_bytes(case, PLAN) == pytest.approx((4 + 8 / 16) * parameters)
    assert staged_bytes(case, PlanNumbers(data=8, tensor=2, zero_stage=3)) == pytest.approx(12 * parameters / 16)
    copy_s = (4 + 8 / 16) * parameters / (0.8 * 31.5e9)
    bare, half, all_hidden = (
        checkpoint_seconds(case, StoragePlan(asynchronous=True), PLAN, hidden_s=share * copy_s) for share in (0, 0.5, 2)
    )
    assert bare.stall - half.stall == pytest.approx(copy_s / 2)
    assert half.stall - all_hidden.stall == pytest.approx(copy_s / 2)
    assert 0 < all_hidden.stall < copy_s
    assert 0 < all_hidden.slowed < 0.02 * copy_s  # 64 cores for 8 devices: only the devices' memory is busy
    crowded = replace(case, site=replace(case.site, host_cores=8))
    slower = checkpoint_seconds(crowded, StoragePlan(asynchronous=True), PLAN, hidden_s=2 * copy_s)
    assert slower.slowed > copy_s
    assert slower.cost == slower.stall + slower.slowed
    loop = checkpoint_seconds(case, StoragePlan(), PLAN, hidden_s=copy_s)
    assert (loop.stall, loop.slowed) == (bare.write, 0.0)
    many = PlanNumbers(data=np.array([1, 8, 16]), zero_stage=np.array([0, 1, 3]))
    for place, one in enumerate(((1, 0), (8, 1), (16, 3))):
        single = checkpoint_seconds(
            case, StoragePlan(asynchronous=True), PlanNumbers(data=one[0], zero_stage=one[1]), hidden_s=0.0
        )
        every = checkpoint_seconds(case, StoragePlan(asynchronous=True), many, hidden_s=0.0)
        assert every.stall[place] == pytest.approx(single.stall)
        assert every.write[place] == pytest.approx(single.write)


def test_workers_with_local_updates_keep_an_optimiser_each_and_a_momentum_together() -> None:
    case = a_case(Disk(5e8, 5e8, 0.01))
    parameters = checkpoint_bytes(case) // 12
    assert checkpoint_bytes(case, None, 1) == 12 * parameters
    assert checkpoint_bytes(case, None, 4) == (4 + 4 * 8 + 4) * parameters


def test_a_disk_holds_what_is_kept_and_one_more_of_its_own_node() -> None:
    case = a_case(Disk(5e8, 5e8, 0.01))
    whole = float(checkpoint_bytes(case))
    shared = replace(case, site=replace(case.site, disk=replace(case.site.disk, shared=True)))
    devices = np.array([4, 8, 16])
    assert on_one_disk(case, devices, 2) == pytest.approx([3 * whole, 3 * whole, 1.5 * whole])
    assert on_one_disk(shared, devices, 2) == pytest.approx(3 * whole)
    assert disk_bytes(whole, 1, 16, 8) == on_one_disk(case, 16, 1)
