"""The bounded cache: the same policy forecasts and decides, hits are counted, and a loss is said before."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.base.errors import UsageError
from datahall.storage.cache import CachedPlace, TierCache, che_hit_share
from datahall.storage.choice import cache_forecast
from datahall.storage.eviction import POLICIES, eviction, replay


def zipf(count: int, keys: int, seed: int) -> list[tuple[str, int]]:
    weights = [1.0 / (n + 1) for n in range(keys)]
    return [(f"k{n}", 100) for n in random.Random(seed).choices(range(keys), weights, k=count)]


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_counted_hits_are_those_of_the_replay(tmp_path: Path, name: str) -> None:
    accesses = zipf(3000, 200, seed=4)
    cache = TierCache(tmp_path, eviction(name, 4000))
    fetched = 0
    for key, size in accesses:

        def fetch(key: str = key, size: int = size) -> bytes:
            nonlocal fetched
            fetched += 1
            return key.ljust(size).encode()

        assert cache.get(key, size, fetch) == key.ljust(size).encode()
    forecast = replay(eviction(name, 4000), accesses)
    assert len(accesses) - fetched == cache.policy.hits == forecast.hits
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == cache.policy.resident_bytes <= 4000


@pytest.mark.parametrize("name", list(POLICIES))
@settings(deadline=None)
@given(accesses=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 60)), max_size=80))
def test_a_policy_never_exceeds_its_limit_and_knows_what_is_there(name: str, accesses: list[tuple[str, int]]) -> None:
    policy = eviction(name, 100)
    sizes = dict(accesses)
    held: set[str] = set()
    for number, (key, _) in enumerate(accesses):
        answer = policy.access(key, sizes[key])
        assert answer.hit == (key in held)
        held -= set(answer.evict)
        held |= {key} if answer.admit else set()
        if number % 7 == 6 and held:
            gone = min(held)
            policy.forget(gone)
            held.discard(gone)
        assert held == set(policy.resident)
        assert sum(sizes[entry] for entry in held) == policy.resident_bytes <= 100


def test_the_policies_differ_where_they_should() -> None:
    order = [("a", 1), ("b", 1), ("a", 1), ("c", 1), ("a", 1)]
    assert replay(eviction("lru", 2), order).hits == 2  # b left for c
    assert replay(eviction("fifo", 2), order).hits == 1  # a left for c
    scan = [("hot", 1), ("hot", 1), *((f"s{n}", 1) for n in range(50)), ("hot", 1)]
    assert replay(eviction("lfu", 10), scan).hits == 2
    assert replay(eviction("lru", 10), scan).hits == 1
    long_scan = [entry for n in range(40) for entry in (("hot", 1), ("hot", 1), *((f"{n}.{m}", 1) for m in range(30)))]
    assert replay(eviction("s3-fifo", 20), long_scan).hits > replay(eviction("lru", 20), long_scan).hits
    with pytest.raises(UsageError, match="lru"):
        eviction("random", 1)


def test_ches_approximation_forecasts_an_lru_cache() -> None:
    probabilities = [1.0 / (n + 1) for n in range(500)]
    for limit in (2_000, 10_000, 30_000):
        counted = replay(eviction("lru", limit), zipf(60_000, 500, seed=limit))
        measured = counted.hits / (counted.hits + counted.misses)
        assert che_hit_share(probabilities, [100] * 500, limit) == pytest.approx(measured, abs=0.01)
    assert che_hit_share(probabilities, [100] * 500, 50_000) == 1.0


def test_a_cache_that_loses_is_said_to_lose_before() -> None:
    epochs = [(f"shard{n}", 100) for _ in range(5) for n in range(100)]  # read in order, again and again
    costs = {"slow_s": 0.01, "fast_s": 0.001, "fill_s": 0.002}
    small = cache_forecast(eviction("lru", 5_000), epochs, **costs)
    assert small.hits == 0  # half of the data fits, and nothing is ever found
    assert small.gain_s == pytest.approx(-500 * 0.002)
    assert "loses 1 s. Do not use it." in small.sentence()
    whole = cache_forecast(eviction("lru", 10_000), epochs, **costs)
    assert (whole.hits, whole.pays) == (400, True)
    assert whole.gain_s == pytest.approx(400 * 0.009 - 100 * 0.002)


def test_a_damaged_entry_is_fetched_again(tmp_path: Path) -> None:
    cache = TierCache(tmp_path, eviction("lru", 1000))
    assert cache.get("a", 5, lambda: b"right") == b"right"
    next(tmp_path.iterdir()).write_bytes(b"wrong")
    assert cache.get("a", 5, lambda: b"right") == b"right"
    assert cache.get("a", 5, lambda: b"never") == b"right"


def test_a_store_is_loaded_through_the_cache(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from datahall.storage import execute
    from datahall.storage.place import open_place

    state = {"weight": torch.arange(3_000_000, dtype=torch.float32)}
    execute.save(tmp_path / "slow", 1, state)
    cache = TierCache(tmp_path / "fast", eviction("lru", 1 << 30))
    for round_number in range(3):
        target = {"weight": torch.zeros(3_000_000)}
        execute.load(CachedPlace(open_place(tmp_path / "slow"), cache), target)
        assert torch.equal(target["weight"], state["weight"])
        assert (cache.policy.hits, cache.policy.misses) == (3 * round_number, 3)
