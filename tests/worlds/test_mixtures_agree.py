"""Mixtures and latent attention on tensor and context ranks: the training of one process, counts as forecast."""

from dataclasses import replace

import pytest
from small_cases import MIXTURE, NARROW_LATENT, SHAPE, small_case
from split_runs import ALONE, BRIEF, LONG, NARROW, STEPS, counts_agree, run_split

from datahall.real import parity

SPLITS = BRIEF | LONG
LATENT = replace(SHAPE, layers=4, latent=NARROW_LATENT)
BOTH = replace(MIXTURE, latent=replace(NARROW_LATENT, query_rank=0, value_dim=16), experts_per_token=1)
SHAPES = {"both": (BOTH, ()), "latent": (LATENT, pytest.mark.soak), "mixture": (MIXTURE, pytest.mark.soak)}
SOAKED = [
    "sequence",
    "tensor recomputed",
    "sequence recomputed",
    "data x sequence",
    "zero1 x tensor",
    "zero2 x tensor",
    "zero3 x tensor",
    "zero3 x sequence",
    "tensor x pipeline",
    "sequence x pipeline",
    "sequence x interleaved",
    "zero-bubble x sequence",
    "zero3 x sequence x pipeline",
    "context",
    "context recomputed",
    "context, cores recomputed",
    "zero1 x context",
    "zero3 x context",
    "zero3 x context in groups",
    "context x sequence",
    "zero3 x context x tensor",
    "context x pipeline",
    "zero3 x context x pipeline",
    "context x grid",
]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=SHAPES[name][1]) for name in SHAPES])
def case(request):
    few = small_case(SHAPES[request.param][0])
    tokens = STEPS * few.application.global_batch * few.application.sequence
    return replace(few, application=replace(few.application, tokens=tokens), site=replace(few.site, nodes=8))


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    return run_split(case, ALONE, tmp_path_factory)


@pytest.mark.parametrize("name", ["tensor", *[pytest.param(name, marks=pytest.mark.soak) for name in SOAKED]])
def test_a_split_is_the_training_of_one_process(case, alone, tmp_path_factory, name):
    counts_agree(case, ALONE, alone)
    run = run_split(case, SPLITS[name], tmp_path_factory)
    assert parity.between(run, alone).holds
    counts_agree(case, SPLITS[name], run)


@pytest.mark.soak
@pytest.mark.parametrize(
    "name", [name for name in NARROW if "tensor" in name or "sequence" in name or "context" in name]
)
def test_narrow_products_are_counted_alike(case, tmp_path_factory, name):
    counts_agree(case, NARROW[name], run_split(case, NARROW[name], tmp_path_factory))
