"""Which stacks train in which precision: the table is whole and sourced, and what people write is found in it."""

from __future__ import annotations

import re

import pytest

from datahall.base.errors import Incompatible, UnknownName
from datahall.calibrate.published import read_runs
from datahall.catalog import compatibility, published_runs, stack_names, stacks, tables
from datahall.virtual.traits import traits_of


def test_every_stack_says_something_of_every_precision_once() -> None:
    said = [(row["stack"], row["precision"]) for row in tables.rows("stacks")]
    assert sorted(said) == sorted((stack, precision) for stack in stacks.names() for precision in stacks.PRECISIONS)
    assert len(stacks.names()) >= 27


def test_every_row_can_be_read_and_every_refusal_has_a_reason() -> None:
    for row in tables.rows("stacks"):
        assert row["trains"] in ("yes", "no", "unknown"), row
        assert bool(row["reason"]) == (row["trains"] != "yes" or bool(row["release"])), row
        assert not row["reason"].endswith("."), row
        for release in row["release"].split():
            assert row["trains"] == "yes", row
            assert re.fullmatch(r"(?:20\d\d\.(?:[1-9]|1[0-2])|\d\.\d+)", release), row


def test_one_table_recognises_a_stack_for_all_who_ask() -> None:
    """Three did, and one of them did not know that Megatron-DeepSpeed is also written with a blank."""
    assert stacks.named("Megatron DeepSpeed 0.4") == "Megatron-DeepSpeed"
    assert traits_of("Megatron DeepSpeed 0.4", "gpu").family == "megatron-deepspeed"
    for family in stack_names.families():
        assert traits_of(next(word for word in _written_for(family)), "tpu").family == family
    assert {stack_names.framework_in(stack) or "pytorch" for stack in stacks.names()} == set(compatibility.FRAMEWORKS)


def _written_for(family: str) -> list[str]:
    written = [*stacks.names(), "Megatron-LM 2.7", "InternLM"]
    return [word for word in written if stack_names.family_in(word) == family]


@pytest.mark.parametrize("stack", stacks.names())
def test_a_stack_is_found_by_its_own_name(stack: str) -> None:
    assert stacks.named(stack) == stack
    assert stacks.named(f"{stack.upper()} 1.2 (of our own)") == stack
    for precision in stacks.PRECISIONS:
        assert stacks.precisions(stack)[precision]


@pytest.mark.parametrize(
    ("written", "stack"),
    [
        ("llm-foundry (Composer+PyTorch FSDP, FlashAttention)", "llm-foundry"),
        ("Megatron-LM (SC21 Table 1)", "Megatron-Core"),
        ("Megatron-DeepSpeed", "Megatron-DeepSpeed"),
        ("NVIDIA NeMo 25.09", "NeMo"),
        ("nemo-automodel", "NeMo AutoModel"),
        ("Pathways/T5X", "T5X"),
        ("paxml 1.4", "Pax"),
        ("HF Trainer (transformers 4.50)", "Hugging Face Trainer"),
        ("HF Trainer 4.50", "Hugging Face Trainer"),
        ("optimum-habana 1.19", "Optimum Habana"),
        ("NxD Training (Neuron 2.26)", "Neuron"),
        ("PyTorch DDP", "PyTorch"),
        ("axolotl 0.5", ""),
        ("JAX", ""),
        ("", ""),
    ],
)
def test_a_stack_is_found_however_it_is_written(written: str, stack: str) -> None:
    assert stacks.named(written) == stack


@pytest.mark.parametrize(
    ("precision", "stack"),
    [
        ("fp4", "Megatron-Bridge 26.02"),
        ("fp4", "Megatron-Bridge"),
        ("fp4", "Megatron-LM"),
        ("fp4", "Megatron-LM core_v0.15.0"),
        ("fp4", "torchtitan 0.3"),
        ("fp4", "MaxText 2025.1"),
        ("fp4", "NeMo 25.09"),  # as MLPerf 5.1 measured
        ("fp4", "NeMo 2.6"),  # its releases are not known by such numbers
        ("fp4", "Megatron-Core 2025"),  # it came within that year
        ("fp8", "MaxText (A3 GPU)"),
        ("fp8", "Megatron-DeepSpeed"),
        ("fp8", "llm-foundry 0.3"),
        ("fp16", "fms-fsdp"),
        ("fp8", "AXLearn"),  # not known, and JAX trains in it
        ("fp32", "torchtitan"),
        ("fp4", "axolotl 0.5"),
        ("fp4", ""),
    ],
)
def test_what_a_stack_trains_in_passes(precision: str, stack: str) -> None:
    stacks.check_trained(precision, stack, "gpu")
    assert stacks.trains(precision, stack, "gpu")


@pytest.mark.parametrize(
    ("precision", "stack", "why", "instead"),
    [
        ("fp4", "llm-foundry", "amp_bf16 and amp_fp8", r"fp16, bf16, fp8\..*Megatron-Core \(from 0.15.*torchtitan"),
        ("fp4", "Megatron-LM 0.14.1", "from 0.15 on", "fp16, bf16, fp8"),
        ("fp4", "Megatron-Bridge 25.07", "from September 2025 on", "Megatron-Core"),
        ("fp4", "NeMo 24.12", "from September 2025 on", "Megatron-Core"),
        ("fp4", "Megatron-Bridge 0.1", "from 0.2 on", "Megatron-Core"),
        ("fp4", "Megatron-LM (Megatron-Core 0.8, TE 2.9)", "from 0.15 on", "NeMo"),
        ("fp4", "torchtitan 0.2.2", "from 0.3 on", "Megatron-Core"),
        ("fp4", "Megatron-DeepSpeed", "--fp8-hybrid", "Megatron-Core"),
        ("fp4", "levanter", "Fp8DotGeneralOp", "MaxText"),
        ("fp8", "Megatron-DeepSpeed 2021", "from September 2022 on", "torchtitan"),
        ("fp8", "torchtune 0.6.1", "from 0.7 on", "torchtitan"),
        ("fp4", "fms-fsdp", "bf16, or fp16", "Megatron-Bridge"),
        ("fp8", "EasyLM", "fp64", "MaxText"),
        ("fp16", "torchtitan", "bfloat16 or float32", "bf16"),
        ("int8", "torchtitan", "MXFP8", "MaxText, AXLearn, levanter"),
        ("int8", "Lightning", "int8 is for inference", "MaxText"),  # not known, and PyTorch does not
    ],
)
def test_what_a_stack_has_no_recipe_for_is_refused_with_the_reason_and_other_stacks(
    precision: str, stack: str, why: str, instead: str
) -> None:
    with pytest.raises(Incompatible) as refused:
        stacks.check_trained(precision, stack, "gpu")
    assert why in refused.value.what
    assert precision in refused.value.what
    assert re.search(instead, refused.value.hint)
    assert stacks.named(stack) == "Lightning" or stack in refused.value.what


def test_a_release_that_is_a_month_is_written_as_one() -> None:
    """As "2025.9" behind "0.15" it would be read as a version, and as one after 2025.10."""
    assert stacks.precisions("Megatron-Core")["fp4"] == "from 0.15 or September 2025"
    assert stacks.precisions("torchtune")["fp8"] == "from 0.7"


def test_the_precision_taken_unasked_is_one_that_the_stack_trains_in() -> None:
    assert stacks.unasked({"fp16": 1.0, "fp32": 1.0}, "", "gpu") == "fp16"
    assert stacks.unasked({"fp16": 1.0, "fp32": 1.0}, "torchtitan", "gpu") == "fp32"
    assert stacks.unasked({"fp8": 1.0}, "torchtitan", "gpu") == ""


def test_no_published_run_is_under_a_stack_that_cannot_have_made_it() -> None:
    _, refused = read_runs([*published_runs.rows(), *published_runs.unseen_rows()])
    assert not [one for one in refused if "does not train in" in one.reason]


def test_an_unknown_stack_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="llm-foundry"):
        stacks.rows("llm-factory")
