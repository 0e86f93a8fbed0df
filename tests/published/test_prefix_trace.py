"""Hits of a published trace of requests: all that there are without a limit, and what policies find within one."""

import csv
import gzip
import os
from pathlib import Path

import pytest

from datahall.storage.eviction import POLICIES, eviction
from datahall.storage.prefix import PrefixIndex

FILE = "mooncake_conversation.csv.gz"


def trace():
    told = os.environ.get("DATAHALL_TRUTH")
    beside = [Path(told), Path(told).parent / "traces"] if told else []
    places = [*beside, *(folder / "shared" / "traces" for folder in Path(__file__).parents[3:5])]
    return next((place / FILE for place in places if (place / FILE).is_file()), None)


def requests(most):
    file = trace()
    if file is None:
        pytest.skip("optional: the trace of requests is not here")
    with gzip.open(file, "rt") as lines:
        for _, row in zip(range(most), csv.DictReader(lines), strict=False):
            yield row["block_ids"].split(), int(row["prefix_hit_blocks"])


def found(index, asked):
    hits = []
    for names, _ in asked:
        hits.append(index.find(names).blocks)
        index.settle(names)
    return hits


def test_without_a_limit_every_request_finds_what_the_trace_says():
    asked = list(requests(20_000))
    hits = found(PrefixIndex(eviction("lru", 1 << 60), 1), asked)
    assert hits == [told for _, told in asked]
    assert sum(hits) / sum(len(names) for names, _ in asked) == pytest.approx(0.366, abs=0.005)


def test_within_a_limit_more_memory_finds_more_and_a_tier_finds_the_rest():
    asked = list(requests(1_500))
    every = sum(told for _, told in asked)
    shares = {}
    for policy in POLICIES:
        shares[policy] = [sum(found(PrefixIndex(eviction(policy, size), 1), asked)) / every for size in (300, 3_000)]
        assert shares[policy][0] < shares[policy][1] < 1
    tiered = PrefixIndex(eviction("lru", 300), 1, eviction("lru", 1 << 60))
    assert sum(found(tiered, asked)) == every
