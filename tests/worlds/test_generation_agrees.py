"""Generation in both worlds: counts are equal, by observers of their own, and answers do not depend on the cache."""

import json
from pathlib import Path

import pytest
import torch
from called import datahall
from small_cases import SHAPE, small_case
from small_checkpoint import write_checkpoint

from datahall.base.errors import UsageError
from datahall.case.generation import Generation, PrefixWish
from datahall.prove.generation_trial import trial
from datahall.storage.eviction import POLICIES
from datahall.storage.place import LocalPlace
from datahall.virtual.generation import GenerationCosts, Line
from datahall.workloads.language_model import LanguageModel
from datahall.workloads.prompts import batches_of, read_prompts

CASES = Path(__file__).parents[2] / "cases"
COSTS = GenerationCosts(*[1e-4] * 6, *[Line(1e-6, 1e-10)] * 6, 0.5, 0.5, 0.5)
TOKEN_BYTES = 2 * SHAPE.layers * SHAPE.kv_heads * SHAPE.head_dim * 4


def played(wanted, folder, place=None):
    torch.manual_seed(0)
    case = small_case()
    return trial(LanguageModel(SHAPE), batches_of(case, wanted), wanted, folder, place=place, costs=COSTS)


def counts(done):
    return {count.name: count.measured for count in done.comparison.counts if count.equal}


@pytest.mark.parametrize("policy", list(POLICIES))
def test_what_is_read_found_and_held_is_what_was_forecast(policy, tmp_path):
    """Two beginnings, memory for one of them and a half, and a tier for what leaves."""
    memory = 9 * 16 * TOKEN_BYTES
    cache = PrefixWish(memory, policy, 16, "always", "somewhere", 4 * memory)
    wanted = Generation("shared", 18, 128, 96, 3, 4, 3, cache)
    done = played(wanted, tmp_path, LocalPlace(tmp_path / "tier"))
    assert all(count.equal for count in done.comparison.counts)
    seen = counts(done)
    assert seen["prompts_answered_alike"] == 18
    assert 0 < seen["hit_blocks_of_the_tier"] < seen["hit_blocks"]
    assert seen["tokens_read"] == 18 * 128 - 16 * seen["hit_blocks"]
    assert (seen["bytes_held"], seen["bytes_a_token"]) == (memory, TOKEN_BYTES)
    assert not list((tmp_path / "tier").rglob("*-*"))


def test_without_a_cache_everything_is_read(tmp_path):
    done = played(Generation("shared", 6, 64, 48, 1, 3, 2), tmp_path)
    assert counts(done)["tokens_read"] == 6 * 64
    assert done.verdict.plan.memory_bytes == 0
    assert done.comparison.row("saved").forecast == 0


def test_the_command_seals_runs_and_compares(tmp_path):
    """Of a checkpoint with its own tokens, on prompts of the user's."""
    shape = write_checkpoint(tmp_path / "weights")
    begin = "Answer in one sentence, and name the line of the file that you mean. "
    lines = [json.dumps({"prompt": begin + text}) for text in ("Where is it?", "Why?", "Since when?", "How often?")]
    (tmp_path / "asked.jsonl").write_text("\n".join([*lines, json.dumps({"tokens": [1, 2, 3]})]))
    sizes = {"layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads, "kv_heads": shape.kv_heads,
             "ffn": shape.ffn, "vocab": shape.vocab}  # fmt: skip
    changed = [f"model.inline.{name}={size}" for name, size in sizes.items()]
    changed += ["model.inline.head_dim=16", "model.inline.tied_embeddings=true"]
    changed += [f"application.weights={tmp_path / 'weights'}", "application.generation.batch=1"]
    changed += ["application.generation.answer=4", "application.generation.cache.use=always"]
    words = [word for change in changed for word in ("--set", change)]
    done = datahall("generate", CASES / "generate.yaml", "--requests", "asked.jsonl", *words, cwd=tmp_path)
    assert done.code == 0, done.stderr
    for said in ("the cache pays", "sealed", "prefill", "first token", "saved", "hit blocks"):
        assert said in done.stdout + done.stderr
    folder = Path(tmp_path, done.stdout.strip().splitlines()[-1])
    compared = json.loads((folder / "comparison.json").read_text())
    assert all(count["equal"] for count in compared["counts"])
    found = {count["name"]: count["measured"] for count in compared["counts"]}
    assert found["hit_blocks"] > 0
    assert found["prompts_answered_alike"] == 5
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [len(answer["tokens"]) for answer in answers] == [4] * 5
    assert all(answer["text"] for answer in answers)


@pytest.mark.parametrize(
    ("line", "said"),
    [("no json", "no prompt"), ('{"text": "x"}', "no prompt"), ('{"tokens": [999]}', "does not know"),
     ('{"tokens": []}', "no token"), ("", "there are no prompts")],
)  # fmt: skip
def test_prompts_that_are_none_are_named(line, said, tmp_path):
    (tmp_path / "asked.jsonl").write_text(line)
    with pytest.raises(UsageError, match=said):
        read_prompts(tmp_path / "asked.jsonl", lambda text: list(text.encode()), 256)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("shared=256", "cannot share"),
        ("cache.tier=/tmp/x", "needs a place and a limit"),
        ("cache.policy=mru", "policy"),
    ],
)
def test_a_wish_that_cannot_be_is_named_with_its_line(change, said, tmp_path):
    done = datahall("generate", CASES / "generate.yaml", "--set", f"application.generation.{change}", cwd=tmp_path)
    assert done.code == 2
    assert said in done.stderr
