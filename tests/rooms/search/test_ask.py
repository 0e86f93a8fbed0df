"""Questions beside "which plan": sites, links and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from datahall.base.errors import Incompatible, NoPlan, UsageError
from datahall.case import from_model_and_site
from datahall.case.named_site import site_from_text, with_nodes
from datahall.case.question import Case, Goal
from datahall.case.site import Site
from datahall.search.ask import link_enough, offer_on, smallest_site, sure_site
from datahall.search.hardware import best_sites, catalogue_sites
from datahall.search.rank import search
from datahall.search.saving import checkpoint_interval
from datahall.virtual.calibration import Uncalibrated
from datahall.virtual.failures import wall_over_work
from datahall.virtual.transferred import default_calibration

DAY_S = 86400.0


def test_the_smallest_site_meets_the_deadline_and_one_of_half_its_nodes_does_not() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA40", tokens=15e9)
    case = replace(case, goal=Goal(deadline_s=3 * DAY_S))
    offer = smallest_site(case, Uncalibrated())
    assert offer.total_s <= 3 * DAY_S
    half = replace(case, site=replace(case.site, nodes=offer.site.nodes // 2))
    with pytest.raises(NoPlan):
        search(half)


def test_no_smaller_site_meets_the_deadline_whatever_its_number_of_nodes_divides() -> None:
    """Twelve nodes share 128 sequences by three pipeline stages; only numbers that divide the batch were tried."""
    case = from_model_and_site("llama-3.1-8b", "dgx-h100", tokens=15e9, global_batch=128)
    twelve = offer_on(case, with_nodes(case.site, 12), Uncalibrated())
    assert twelve is not None
    bounded = replace(case, goal=Goal(deadline_s=1.001 * twelve.total_s))
    found = smallest_site(bounded, Uncalibrated()).site.nodes
    assert 8 < found <= 12
    assert all(offer_on(bounded, with_nodes(case.site, fewer), Uncalibrated()) is None for fewer in range(1, found))


def test_without_a_deadline_the_smallest_site_is_the_smallest_that_holds_the_case() -> None:
    case = from_model_and_site("llama-3.1-70b", "dgx-h100", tokens=1e9)
    offer = smallest_site(case, Uncalibrated())
    assert offer.site.nodes > 1
    with pytest.raises(NoPlan, match="does not fit"):
        search(replace(case, site=replace(case.site, nodes=offer.site.nodes - 1)), Uncalibrated())


def test_a_deadline_can_be_too_short() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA40", tokens=15e9)
    with pytest.raises(NoPlan, match="not even"):
        smallest_site(replace(case, goal=Goal(deadline_s=30.0)), Uncalibrated())


def test_hardware_whose_framework_does_not_train_in_the_precision_is_not_tried() -> None:
    case = from_model_and_site("gpt2", "8xTPU-v5e", precision="int8")
    sites, refused = catalogue_sites(case)
    assert {sizes[0].accelerator.kind for sizes in sites} == {"tpu"}
    assert refused > 40
    gpu = replace(case, site=site_from_text("8xH100-SXM")[0])
    with pytest.raises(Incompatible, match="int8 is for inference"):
        search(gpu, Uncalibrated())


def test_sites_are_ordered_by_the_goal_and_kept_within_the_budget() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA100-80GB-SXM", tokens=1e9)
    sites = [[site_from_text(f"8x{name}")[0]] for name in ("A40", "A100-80GB-SXM", "H100-SXM")]
    by_time = best_sites(case, sites, lambda _: Uncalibrated())
    assert by_time[0].site.accelerator.name == "H100-SXM"
    assert [offer.total_s for offer in by_time] == sorted(offer.total_s for offer in by_time)
    budget = sorted(offer.cost_usd for offer in by_time)[1]
    kept = best_sites(replace(case, goal=Goal(budget_usd=budget)), sites, lambda _: Uncalibrated())
    assert all(offer.cost_usd <= budget for offer in kept)
    with pytest.raises(NoPlan):
        best_sites(replace(case, goal=Goal(budget_usd=0.01)), sites, lambda _: Uncalibrated())


@pytest.mark.parametrize("kind", ["A100-80GB-SXM", "RTX-4090"])
def test_the_size_that_serves_the_goal_best_is_found(kind: str) -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA100-80GB-SXM", tokens=1e10)
    sizes = [site_from_text(f"{count}x{kind}")[0] for count in (8, 16, 32, 64, 128, 256)]
    alone = [best_sites(case, [[site]], default_calibration)[0] for site in sizes]
    budget, deadline = 1.05 * alone[0].cost_usd, 1.2 * alone[3].total_s
    for goal in (Goal(budget_usd=budget), Goal(minimise="cost", deadline_s=deadline)):
        asked = replace(case, goal=goal)
        found = best_sites(asked, [sizes], default_calibration)[0]
        assert found.goal_value(asked) == min(values_of(asked, sizes))
        assert found.site.devices > 8


def values_of(case: Case, sites: list[Site]) -> Iterator[float]:
    for site in sites:
        try:
            yield best_sites(case, [[site]], default_calibration)[0].goal_value(case)
        except NoPlan:
            continue


def test_each_site_is_forecast_by_its_own_constants() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA100-80GB-SXM", tokens=1e9)
    sites = [[site_from_text(f"8x{name}")[0]] for name in ("A100-80GB-SXM", "TPU-v5p", "MI300X")]
    for offer in best_sites(case, sites, default_calibration):
        alone = search(replace(case, site=offer.site))
        assert offer.total_s == pytest.approx(float(alone.prices.total_s[alone.order[0]])), offer.site.name


def test_a_slow_network_is_not_enough_and_a_fast_one_is() -> None:
    case = from_model_and_site("llama-3.1-8b", "4x8xA40", tokens=1e9)

    def on(bytes_per_s: float):
        link = replace(case.site.scale_out, bytes_per_s=bytes_per_s)
        return link_enough(replace(case, site=replace(case.site, scale_out=link)), Uncalibrated())

    slow, fast = on(1e7), on(1e12)
    assert not slow.enough
    assert fast.enough
    assert slow.now.step_s > fast.now.step_s
    steps = [step.step_s for step in slow.steps]
    assert steps == sorted(steps, reverse=True)


def test_one_node_has_no_network_to_ask_about() -> None:
    with pytest.raises(UsageError, match="one node"):
        link_enough(from_model_and_site("llama-3.1-8b", "8xA40", tokens=1e9), Uncalibrated())


@pytest.mark.parametrize(("site", "kind"), [("64xTPU-v5p", "torus"), ("gb200-nvl72", "domain")])
def test_nodes_that_their_own_links_join_have_no_network_to_ask_about(site: str, kind: str) -> None:
    case = from_model_and_site("llama-3.1-8b", site, tokens=1e9)
    assert case.site.nodes > 1
    with pytest.raises(UsageError, match=f"is one {kind} of .* nothing crosses the network between nodes"):
        link_enough(case, Uncalibrated())


def test_the_interval_of_checkpoints_loses_the_least() -> None:
    ranking = search(from_model_and_site("llama-3.1-70b", "8xdgx-a100", tokens=1e12))
    found = checkpoint_interval(ranking)
    losses = dict(found.lost_shares)
    assert min(losses, key=lambda interval: losses[interval]) == pytest.approx(found.daly_s)
    for factor in (0.8, 1.25):  # no interval near it loses less
        cost_s = found.stall_s + found.slowed_s
        there = 1 - 1 / float(wall_over_work(found.daly_s * factor, cost_s, 300.0, found.between_failures_s))
        assert there >= losses[found.daly_s]
    silent = replace(ranking, case=replace(ranking.case, site=replace(ranking.case.site, failures_per_device_s=0.0)))
    with pytest.raises(UsageError, match="how often devices fail"):
        checkpoint_interval(silent)


def test_the_interval_of_saves_that_hold_the_loop_weighs_all_of_their_time() -> None:
    case = from_model_and_site("llama-2-70b", "2x8xH100-SXM", tokens=1e9)
    small = replace(case, site=replace(case.site, host_memory_bytes=256e9))
    beside, held = (checkpoint_interval(search(one)) for one in (case, small))
    assert (beside.beside, held.beside) == (True, False)
    assert (held.stall_s, held.slowed_s) == (held.write_s, 0.0)
    assert held.daly_s > 3.0 * beside.daly_s


def test_no_interval_is_shown_that_ends_before_its_checkpoint_is_written() -> None:
    found = checkpoint_interval(search(from_model_and_site("llama-3.1-405b", "llama3-h100", tokens=1e12)))
    assert found.daly_s == found.write_s > found.young_s
    assert min(interval for interval, _ in found.lost_shares) == found.daly_s
    assert [share for _, share in found.lost_shares] == sorted(share for _, share in found.lost_shares)


def test_an_unknown_price_is_not_zero_dollars() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xTPU-v7x", tokens=1e9)
    for goal in (Goal(minimise="cost"), Goal(budget_usd=1e9)):
        with pytest.raises(Incompatible, match="nobody stated a price for TPU-v7x"):
            search(replace(case, goal=goal), Uncalibrated())
    priced = replace(case.site, accelerator=replace(case.site.accelerator, price_usd_per_h=3.0))
    assert search(replace(case, site=priced, goal=Goal(minimise="cost")), Uncalibrated()).order.size
    sites = [[site_from_text(f"8x{name}")[0]] for name in ("TPU-v7x", "H100-SXM")]
    offers = best_sites(replace(case, goal=Goal(minimise="cost")), sites, lambda _: Uncalibrated())
    assert [offer.site.accelerator.name for offer in offers] == ["H100-SXM"]
    idle = replace(case.site, accelerator=replace(case.site.accelerator, power_w=0.0))
    with pytest.raises(Incompatible, match="power"):
        search(replace(case, site=idle, goal=Goal(minimise="energy")), Uncalibrated())


def test_a_budget_that_no_number_of_nodes_keeps_is_named_as_what_stands_in_the_way() -> None:
    case = from_model_and_site("llama-3.1-8b", "512xdgx-h100", tokens=1e9)
    with pytest.raises(NoPlan, match="hold it and cost no more than the budget") as refused:
        smallest_site(replace(case, goal=Goal(budget_usd=0.01)), Uncalibrated())
    assert "--ask hardware" in refused.value.hint


def test_a_goal_that_asks_for_a_price_nobody_stated_is_no_want_of_nodes() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xGH200-144GB", tokens=1e9)
    for goal in (Goal(minimise="cost"), Goal(budget_usd=1e6), Goal(budget_usd=1e6, deadline_s=DAY_S)):
        with pytest.raises(Incompatible, match="nobody stated a price for GH200-144GB"):
            smallest_site(replace(case, goal=goal), Uncalibrated())


def test_a_larger_site_is_named_where_memory_fits_by_the_forecast_alone() -> None:
    case = from_model_and_site("llama-3.1-70b", "8xA40", tokens=1e9)
    calibration = default_calibration(case)
    offer = smallest_site(case, calibration)
    assert offer.ranking.narrow(0)
    sure = sure_site(case, calibration, offer)
    assert sure is not None
    place = sure.ranking.roomy()
    assert place is not None
    assert not sure.ranking.narrow(place)
    assert all(sure.ranking.narrow(before) for before in range(place))
    assert sure.site.nodes >= offer.site.nodes
    assert sure.total_s == sure.ranking.prices.total_s[sure.ranking.order[place]]


def test_the_least_link_is_looked_for_until_it_is_not_enough() -> None:
    case = from_model_and_site("llama-3.1-8b", "2xdgx-h100", tokens=1e9)
    wide = replace(case.site, scale_out=replace(case.site.scale_out, bytes_per_s=1e12))
    found = link_enough(replace(case, site=wide), Uncalibrated())
    assert found.smallest is not None
    slower = [step for step in found.steps if step.bytes_per_s < found.smallest.bytes_per_s]
    assert slower
    assert all(step.step_s > 1.05 * found.endless_s for step in slower)
