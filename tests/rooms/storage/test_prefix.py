"""Blocks of prompts: names, what is found, and that the real cache holds what the replay says, byte by byte."""

import random

import pytest
import torch

from datahall.base.errors import UsageError
from datahall.storage.eviction import POLICIES
from datahall.storage.execute_prefix import PrefixCache
from datahall.storage.place import LocalPlace
from datahall.storage.plan import PrefixPlan
from datahall.storage.prefix import block_names, prefix_index, replay_prompts

LAYERS, HEADS, WIDTH, BLOCK = 2, 1, 4, 4
TOKEN_BYTES = LAYERS * 2 * HEADS * WIDTH * 4
BLOCK_BYTES = TOKEN_BYTES * BLOCK


def row_of(prompt):
    """A stand-in for keys and values that, as the real ones do, depend on all tokens up to theirs."""
    sums = torch.tensor(prompt, dtype=torch.float32).cumsum(0)
    return sums[:, None].expand(LAYERS, 2, HEADS, len(prompt), WIDTH).contiguous()


def prompts_of(count, seed):
    chance = random.Random(seed)
    begins = [[chance.randrange(50) for _ in range(chance.randrange(4, 30))] for _ in range(6)]
    return [chance.choice(begins) + [chance.randrange(50) for _ in range(chance.randrange(1, 20))]
            for _ in range(count)]  # fmt: skip


def test_names_tell_of_everything_before_them():
    names = block_names(range(13), 4)
    assert len(names) == len(set(names)) == 3
    assert block_names([*range(8), 99, 9, 10, 11, 12], 4)[:2] == names[:2]
    assert block_names([*range(8), 99, 9, 10, 11, 12], 4)[2] != names[2]
    assert block_names([99, *range(1, 13)], 4)[1] != names[1]  # the same tokens after other ones
    assert len(block_names(range(12), 4)) == 2  # the last token is read for its answer
    assert block_names([], 4) == block_names([1], 4) == []


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("blocks", [(6, 0), (6, 12), (40, 0)])
@pytest.mark.parametrize("batch", [3])
def test_the_real_cache_holds_and_finds_what_the_replay_says(tmp_path, policy, blocks, batch):
    plan = PrefixPlan(blocks[0] * BLOCK_BYTES, policy, BLOCK, blocks[1] * BLOCK_BYTES)
    prompts = prompts_of(30 if blocks[1] else 90, seed=blocks[0])
    batches = [prompts[at : at + batch] for at in range(0, len(prompts), batch)]
    forecast = prefix_index(plan, TOKEN_BYTES)
    visits = [visit for group in replay_prompts(forecast, batches, BLOCK) for visit in group]
    cache = PrefixCache(prefix_index(plan, TOKEN_BYTES), BLOCK, LocalPlace(tmp_path) if blocks[1] else None)
    filled = []
    for group in batches:
        named = [block_names(prompt, BLOCK) for prompt in group]
        rows = [torch.zeros_like(row_of(prompt)) for prompt in group]
        for names, row, prompt in zip(named, rows, group, strict=True):
            found = cache.index.find(names)
            tokens = cache.fill(names, found, row)
            assert torch.equal(row[..., :tokens, :], row_of(prompt)[..., :tokens, :])  # never another prompt's
            filled.append(tokens)
        for names, prompt in zip(named, group, strict=True):
            cache.settle(names, row_of(prompt))
    assert filled == [visit.found.blocks * BLOCK for visit in visits]
    assert cache.near_hits == sum(visit.found.near for visit in visits)
    assert cache.far_hits == sum(visit.found.far for visit in visits)
    assert cache.held_bytes == forecast.near.resident_bytes <= plan.memory_bytes
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == (forecast.far.resident_bytes if forecast.far else 0)
    assert cache.written_bytes == BLOCK_BYTES * sum(len(visit.moves.write) for visit in visits)
    assert cache.read_bytes == BLOCK_BYTES * cache.far_hits
    cache.close()
    assert not list(tmp_path.rglob("prefix-*"))


def test_a_damaged_block_is_computed_again_and_not_found_any_more(tmp_path):
    first, other = list(range(20)), list(range(100, 120))
    plan = PrefixPlan(4 * BLOCK_BYTES, "lru", BLOCK, 40 * BLOCK_BYTES)
    cache = PrefixCache(prefix_index(plan, TOKEN_BYTES), BLOCK, LocalPlace(tmp_path))
    for prompt in (first, other):
        cache.settle(block_names(prompt, BLOCK), row_of(prompt))
    names = block_names(first, BLOCK)
    assert cache.index.find(names).far == 4
    file = next(path for path in tmp_path.rglob(names[2]))
    file.write_bytes(b"x" * BLOCK_BYTES)
    row = torch.zeros_like(row_of(first))
    assert cache.fill(names, cache.index.find(names), row) == 2 * BLOCK
    assert (cache.lost, cache.index.find(names).blocks) == (1, 2)
    cache.settle(names, row_of(first))  # read again, it can be kept again
    assert cache.index.find(names).blocks == 4


def test_a_tier_needs_a_place():
    with pytest.raises(UsageError, match="nobody said where"):
        PrefixCache(prefix_index(PrefixPlan(100, "lru", 1, 100), 10), 1)
