"""Adapters beside a frozen model in every split: the weights of one process, and counts that the forecast knew."""

from dataclasses import replace

import pytest
from small_cases import SHAPE, small_case
from split_runs import ALONE, BRIEF, COPIED, LONG, NARROW, STEPS, bubble_agrees, counts_agree, run_split

from datahall.real import parity
from datahall.real.injection import Injection
from datahall.storage.plan import StoragePlan

PLANS = {**BRIEF, **LONG, **COPIED}
PIPELINES = [
    "interleaved",
    "gpipe",
    "1f1b",
    "four stages",
    "zero1 x pipeline",
    "zero2 x pipeline",
    "zero3 x pipeline",
    "zero3 x interleaved",
    "few micro-batches",
    "zero-bubble",
    "zero-bubble x zero3",
    "zero-bubble x zero3, cores recomputed",
    "zero-bubble x interleaved x zero3",
    "context x pipeline",
]
TENSORS = [
    "sequence",
    "tensor recomputed",
    "sequence recomputed",
    "zero1 x tensor",
    "zero2 x tensor",
    "zero3 x tensor",
    "zero3 x sequence",
    "context x sequence",
    "zero3 x context x tensor",
    *COPIED,
]
GRIDS = [
    "tensor x pipeline",
    "sequence x interleaved",
    "zero-bubble x sequence",
    "zero1 x sequence x pipeline",
    "zero3 x sequence x pipeline",
    "context x grid",
]


def adapted_case(targets, tied=False):
    few = small_case(replace(SHAPE, layers=4, tied_embeddings=tied))
    tokens = STEPS * few.application.global_batch * few.application.sequence
    tuned = replace(few.application, tokens=tokens, method="lora", lora_rank=4, lora_targets=targets)
    return replace(few, application=tuned, site=replace(few.site, nodes=8))


@pytest.fixture(scope="module", params=["attention", "all"])
def adapted(request, tmp_path_factory):
    """A case with adapters, tied where they are few, and its training by one process."""
    case = adapted_case(request.param, tied=request.param == "attention")
    return case, run_split(case, ALONE, tmp_path_factory)


def test_adapters_on_tensor_ranks_that_share_the_sequence(tmp_path_factory):
    case = adapted_case("all")
    one = run_split(case, ALONE, tmp_path_factory, steps=1)
    run = run_split(case, LONG["sequence"], tmp_path_factory, steps=1)
    assert parity.between(run, one).holds


@pytest.mark.soak
@pytest.mark.parametrize("name", ["tensor", *PIPELINES, *TENSORS, *GRIDS])
def test_adapters_split_as_the_model_does(adapted, tmp_path_factory, name):
    case, one = adapted
    run = run_split(case, PLANS[name], tmp_path_factory)
    assert parity.between(run, one).holds
    counts_agree(case, PLANS[name], run)
    if PLANS[name].pipeline > 1 and PLANS[name].data == 1:
        bubble_agrees(PLANS[name], run)


@pytest.mark.soak
@pytest.mark.parametrize(
    "name", ["pipeline bf16", "zero3 x pipeline bf16", "tensor recomputed bf16", "zero3 x grid bf16"]
)
def test_narrow_adapters_are_counted_alike(tmp_path_factory, name):
    case = adapted_case("all")
    counts_agree(case, NARROW[name], run_split(case, NARROW[name], tmp_path_factory))


@pytest.mark.soak
@pytest.mark.parametrize("name", ["sequence x interleaved", "zero3 x tensor x pipeline"])
def test_split_adapters_go_on_from_their_checkpoint(adapted, tmp_path_factory, name):
    case, one = adapted
    killed = Injection("kill-worker", rank=1, step=2)
    run = run_split(case, LONG[name], tmp_path_factory, storage=StoragePlan(interval_steps=1), injection=killed)
    assert run.lost
    assert parity.between(run, one).holds
