"""What people write for a training stack: the one table by which its name is recognised.

`stacks` says what one trains in, `compatibility` what its framework computes in, and `virtual.traits` how it runs; each
asks here who is meant.  Nothing else about a stack stands here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NamedStack:
    """A stack by the `pattern` of what is written for it, in small letters.

    `name` is what `data/stacks.csv` calls it, `framework` its own where that is not PyTorch, `family` whose traits it
    has.  What is empty is for a later row that matches too to say: of combinations, and of parts of a stack.
    """

    pattern: str
    name: str = ""
    framework: str = ""
    family: str = ""


_TABLE = (  # the narrower first: a port or a combination before what it is made of
    NamedStack(r"neuron", "Neuron", family="xla"),  # whatever it is a port of
    NamedStack(r"auto.?model", "NeMo AutoModel", family="automodel"),
    NamedStack(r"megatron.?deepspeed", "Megatron-DeepSpeed", family="megatron-deepspeed"),
    NamedStack(r"megatron.?bridge|mbridge", "Megatron-Bridge", family="megatron-bridge"),
    NamedStack(r"nemo", "NeMo", family="megatron-bridge"),
    NamedStack(r"megatron.?core|megatron.?fsdp", family="megatron-bridge"),  # also where Primus is named beside it
    NamedStack(r"primus", "Primus", family="megatron-core"),
    NamedStack(r"mindspeed", "MindSpeed", family="megatron-core"),
    NamedStack(r"megascale", family="megatron-core"),
    NamedStack(r"megatron", "Megatron-Core", family="megatron-lm"),  # Megatron-LM's layers are Megatron-Core's
    NamedStack(r"torchtitan", "torchtitan", family="torchtitan"),
    NamedStack(r"torchtune", "torchtune"),
    NamedStack(r"maxtext", "MaxText", "jax", "xla"),
    NamedStack(r"t5x", "T5X", "jax", "xla"),
    NamedStack(r"axlearn", "AXLearn", "jax", "xla"),
    NamedStack(r"levanter", "levanter", "jax", "xla"),
    NamedStack(r"easylm", "EasyLM", "jax", "xla"),
    NamedStack(r"\bpax", "Pax", "jax", "xla"),
    NamedStack(r"pathways|jax", "", "jax", "xla"),
    NamedStack(r"foundry|composer|mosaic", "llm-foundry", family="llm-foundry"),
    NamedStack(r"hai-llm|dualpipe", "HAI-LLM", family="hai-llm"),
    NamedStack(r"llama3 4d|meta llama", "Meta Llama", family="meta"),
    NamedStack(r"optimum.?habana", "Optimum Habana"),
    NamedStack(r"hugging ?face|hf.?trainer|transformers|accelerate|\btrl\b", "Hugging Face Trainer"),
    NamedStack(r"lightning", "Lightning"),
    NamedStack(r"fms.?fsdp", "fms-fsdp", family="fms-fsdp"),
    NamedStack(r"intern(?:evo|lm)", "InternEvo", family="internevo"),
    NamedStack(r"tensorflow|keras", "TensorFlow", "tensorflow"),
    NamedStack(r"deepspeed", "DeepSpeed", family="deepspeed"),
    NamedStack(r"torch|fsdp", "PyTorch"),
)


def stack_in(text: str) -> NamedStack | None:
    """The stack of `data/stacks.csv` that `text` names; None where it names none of them."""
    return next((stack for stack in _meant(text) if stack.name), None)


def framework_in(text: str) -> str:
    """The framework other than PyTorch that `text` names, or that the stack it names is made with; empty: neither."""
    return next((stack.framework for stack in _meant(text) if stack.framework), "")


def family_in(text: str) -> str:
    """The family whose traits the stack that `text` names has; empty where none is known."""
    return next((stack.family for stack in _meant(text) if stack.family), "")


def families() -> set[str]:
    """All families of the table."""
    return {stack.family for stack in _TABLE if stack.family}


def _meant(text: str) -> list[NamedStack]:
    """The rows that `text` matches, the narrower first."""
    low = text.lower()
    return [stack for stack in _TABLE if re.search(stack.pattern, low)]
