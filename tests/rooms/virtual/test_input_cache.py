"""Whether a cache before the data pays is said before anything has run, with the reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from datahall.base.errors import CaseError
from datahall.case import loads
from datahall.case.question import Case
from datahall.case.saved import case_from_json
from datahall.compute.plan import ComputePlan
from datahall.decisions.plan import Plan
from datahall.network.plan import NetworkPlan
from datahall.storage.plan import StoragePlan
from datahall.storage.reading import ReadCosts
from datahall.storage.shards import write_shards
from datahall.virtual.input_cache import cache_verdict, with_reading
from datahall.virtual.training import forecast

WORK_S = 0.02
COMPUTE = ComputePlan(data=1, micro_batch=8, precision="fp32")
DEAR, CHEAP = ReadCosts(0.5, 0.001, 0.001), ReadCosts(0.001, 0.001, 0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    write_shards(str(made / "shards"), b"".join(b"%08d" % n for n in range(2000)), 1000)
    return made


def case_of(folder: Path, extra: str = "") -> Case:
    return loads(
        "model: {layers: 1, hidden: 32, heads: 2, ffn: 64, vocab: 256}\n"
        "application: {kind: training, tokens: 50000, global_batch: 8, sequence: 8, precision: fp32,"
        f" data: {{path: shards{extra}}}}}\n"
        "site: local\n",
        folder=folder,
    )


def test_a_cache_is_taken_where_it_spares_waiting_and_left_where_it_does_not(folder: Path) -> None:
    case = case_of(folder, ", ahead: 0, cache: {limit: 1 MiB}")
    plan = with_reading(case, COMPUTE, StoragePlan(), WORK_S, DEAR)
    assert (plan.ahead, plan.cache_bytes, plan.cache_policy) == (0, 1 << 20, "lru")
    won = cache_verdict(case, COMPUTE, plan, WORK_S, DEAR)
    assert won is not None
    assert (won.pays, won.used) == (True, True)
    assert won.hits > 0
    assert won.stall_without_s - won.stall_with_s == pytest.approx(won.hits * (0.5 - 0.001) - 15 * 0.001)
    assert "It pays because it spares" in won.sentence()
    assert with_reading(case, COMPUTE, StoragePlan(), WORK_S, CHEAP).cache_bytes == 0
    lost = cache_verdict(case, COMPUTE, StoragePlan(), WORK_S, CHEAP)
    assert lost is not None
    assert "It does not pay because hits do not make up for filling it" in lost.sentence()


def test_why_a_cache_does_not_pay_is_one_of_three_reasons(folder: Path) -> None:
    small = case_of(folder, ", ahead: 0, cache: {limit: 1.5 kB, use: always}")
    plan = with_reading(small, COMPUTE, StoragePlan(), WORK_S, DEAR)
    verdict = cache_verdict(small, COMPUTE, plan, WORK_S, DEAR)
    assert verdict is not None
    assert (verdict.hits, verdict.used, verdict.pays) == (0, True, False)
    assert "no shard comes back before it has to leave" in verdict.reason
    assert verdict.sentence().endswith("It is used, as the case says.")
    hidden = case_of(folder, ", ahead: 60, cache: {limit: 1 MiB}")
    plan = with_reading(hidden, COMPUTE, StoragePlan(), WORK_S, ReadCosts(0.05, 0.001, 0.001))
    assert (plan.ahead, plan.cache_bytes) == (60, 0)
    verdict = cache_verdict(hidden, COMPUTE, plan, WORK_S, ReadCosts(0.05, 0.001, 0.001))
    assert verdict is not None
    assert "hidden behind the arithmetic" in verdict.reason


def test_what_is_read_ahead_covers_the_shards_that_are_opened_next(folder: Path) -> None:
    case = case_of(folder)
    assert with_reading(case, COMPUTE, StoragePlan(), WORK_S, CHEAP).ahead == 2
    assert with_reading(case, COMPUTE, StoragePlan(), WORK_S, ReadCosts(0.1, 0, 0)).ahead == 21
    assert cache_verdict(case, COMPUTE, StoragePlan(), WORK_S) is None
    slow = case_of(folder, ", tier: {read: 10 kB/s, latency: 20 ms}")
    assert with_reading(slow, COMPUTE, StoragePlan(), WORK_S).ahead > 21


def test_the_wait_is_a_term_of_the_forecast_and_the_reads_are_counted(folder: Path) -> None:
    case = case_of(folder, ", ahead: 0")
    plan = Plan(COMPUTE, StoragePlan(), NetworkPlan(), case.hash())
    free, dear = (forecast(case, plan, costs=costs) for costs in (ReadCosts(0, 0, 0), DEAR))
    opened = dear.counts["shards_opened"]
    assert opened == free.counts["shards_opened"] >= 15 * 3
    assert dear.counts["cache_hits"] == 0
    more = dear.metrics["input_wait"].value - free.metrics["input_wait"].value
    assert more == pytest.approx(0.5 * opened)
    assert dear.metrics["total_time"].value - free.metrics["total_time"].value == pytest.approx(more)
    assert any("of reading by a worker" in note for note in dear.notes)


def test_a_case_knows_its_data_and_comes_back_from_json(folder: Path) -> None:
    case = case_of(folder, ", cache: {limit: 1 MiB, policy: s3-fifo}")
    again = case_from_json(case.to_json())
    assert again.application == case.application
    assert again.hash() == case.hash()
    data = case.application.data
    assert data is not None
    assert data.sizes(8) == (124,) * 15
    other = replace(case, application=replace(case.application, data=replace(data, tokens=data.tokens[:-1])))
    assert other.hash() != case.hash()
    with pytest.raises(CaseError, match=r"(?s)no data set at .*datahall data shard"):
        case_of(folder / "nowhere")
    with pytest.raises(CaseError, match="policy"):
        case_of(folder, ", cache: {limit: 1 MiB, policy: random}")
