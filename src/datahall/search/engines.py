"""Which plans a training engine can run, so that a choice can be exported to it.

What an engine's configuration cannot say counts as not runnable, even where code could be written for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datahall.base.errors import UsageError
from datahall.case.model import ModelShape
from datahall.case.question import Case
from datahall.case.site import Accelerator
from datahall.compute.numbers import PlanNumbers
from datahall.compute.plan import ComputePlan

ENGINES = ("torchtitan", "megatron", "deepspeed")
_NO_ADAPTERS = ("torchtitan", "megatron")  # as their training scripts come
_TORCHTITAN_MODELS = {
    # layers, hidden, vocabulary, heads, of keys, MLP, experts: module and configuration function of torchtitan 0.3
    (32, 4096, 128256, 32, 8, 14336, 0): ("llama3", "llama3_8b"),
    (80, 8192, 128256, 64, 8, 28672, 0): ("llama3", "llama3_70b"),
    (126, 16384, 128256, 128, 8, 53248, 0): ("llama3", "llama3_405b"),
    (28, 1024, 151936, 16, 8, 3072, 0): ("qwen3", "qwen3_0_6b"),
    (28, 2048, 151936, 16, 8, 6144, 0): ("qwen3", "qwen3_1_7b"),
    (40, 5120, 151936, 40, 8, 17408, 0): ("qwen3", "qwen3_14b"),
    (64, 5120, 151936, 64, 8, 25600, 0): ("qwen3", "qwen3_32b"),
    (48, 2048, 151936, 32, 4, 768, 128): ("qwen3", "qwen3_30b_a3b"),
    (61, 7168, 129280, 128, 128, 2048, 256): ("deepseek_v3", "deepseek_v3_671b"),
    (27, 2048, 102400, 16, 16, 1408, 64): ("deepseek_v3", "deepseek_v3_16b"),
}


def runnable(engine: str, case: Case, plans: PlanNumbers, precision: str) -> Any:
    """A mask over `plans`: which of them `engine` can run; UsageError for an engine that is not known."""
    kind = case.site.accelerator.kind
    elsewhere = kind == "tpu" if engine == "deepspeed" else kind != "gpu"
    if elsewhere or (case.application.method == "lora" and engine in _NO_ADAPTERS):
        return np.zeros(1, dtype=bool)
    try:
        return _ENGINES[engine](case, plans, precision)
    except KeyError:
        raise UsageError(
            f'"{engine}" is not an engine that plans are made for.', hint=f"Use {', '.join(ENGINES)}."
        ) from None


def engine_named(stack: str) -> str:
    """The engine that a stack's name is of; empty where it is of none, or of several (Megatron-DeepSpeed)."""
    named = [engine for engine in ENGINES if engine in stack.lower()]
    return named[0] if len(named) == 1 else ""


def exportable(case: Case, plans: PlanNumbers, precision: str) -> Any:
    """A mask over `plans`: which of them the engine that the site's stack names can run, or some, on GPUs without one.

    All of them where none of these could run any, or the stack is another: what can run them is not known here.
    """
    stack, named = case.site.stack, engine_named(case.site.stack)
    asked = (named,) if named else () if stack or case.site.accelerator.kind != "gpu" else ENGINES
    able = set(asked) & set(engines_of(case, ComputePlan(precision=precision)))
    if not able:
        return np.ones(1, dtype=bool)
    return np.logical_or.reduce(np.broadcast_arrays(*(runnable(one, case, plans, precision) for one in able)))


def engines_of(case: Case, plan: ComputePlan) -> list[str]:
    """The engines that can run a plan."""
    numbers = PlanNumbers.of(plan)
    return [engine for engine in ENGINES if np.all(runnable(engine, case, numbers, plan.precision))]


def torchtitan_model(shape: ModelShape) -> tuple[str, str]:
    """The module and the configuration function under which torchtitan's registry has a model; empty: it has not."""
    heads = (shape.heads, shape.kv_heads)
    sizes = (shape.layers, shape.hidden, shape.vocab, *heads, shape.ffn, shape.experts)
    return _TORCHTITAN_MODELS.get(sizes, ("", ""))


def evened_layers(layers: int, stages: Any) -> Any:
    """Layers that Megatron-LM counts to cut interleaved stages evenly: embedding and loss as one each where that helps.

    Its flags are `--account-for-embedding-in-pipeline-split` and `--account-for-loss-in-pipeline-split`; the first and
    the last stage then hold one layer less.  Stages that do not divide what is given back cannot be had.
    """
    return np.where(layers % stages == 0, layers, layers + 2)


def has_nvfp4(card: Accelerator) -> bool:
    """Whether an accelerator has NVFP4, the fp4 of Transformer Engine's recipes; AMD's is MXFP4."""
    return card.architecture.startswith("blackwell")


def _torchtitan(case: Case, plans: PlanNumbers, precision: str) -> Any:
    """It shards gradients and parameters or neither, always over context ranks, and chooses fp8 by configuration.

    Its expert ranks lie among those that share one copy, and their tensor ranks.  Its stages hold equal numbers of
    layers but for the last; halves of backward passes (zero-bubble) are for several stages a rank, and ask a sharded
    module for parameters that it no longer has.
    """
    whole = (plans.zero_stage == 0) & (plans.context == 1)
    shared = np.where(plans.zero_stage == 0, 1, plans.shards) * plans.tensor
    spread = shared % plans.expert == 0
    stages, layers = plans.pipeline * plans.virtual_stages, case.model.layers
    equal = np.ceil(layers / np.ceil(layers / stages)) == stages
    halves = (plans.bubble_share == 1.0) | ((plans.virtual_stages > 1) & (plans.zero_stage == 0))
    told = bool(torchtitan_model(case.model)[0]) & (precision == "bf16")
    return (whole | (plans.zero_stage >= 2)) & spread & equal & halves & told


def _megatron(case: Case, plans: PlanNumbers, precision: str) -> Any:
    """Stages are even but for the first and the last; its FSDP knows no pipeline, its expert ranks no fp16.

    Interleaved stages are even as `evened_layers` counts.  It has no zero-bubble schedule, and tensor ranks of a
    mixture have to share the sequence.
    """
    layers = case.model.layers
    stages = plans.pipeline * plans.virtual_stages
    even = evened_layers(layers, stages) % stages == 0
    left = layers - np.ceil(layers / plans.pipeline) * (plans.pipeline - 2)
    uneven = (left >= 2) & (plans.virtual_stages == 1)
    sharded = (plans.zero_stage < 2) | (plans.pipeline == 1)
    spread = (plans.expert == 1) | (precision != "fp16")
    shares = (plans.tensor == 1) | (plans.sequence_parallel == 1) | (case.model.experts == 0)
    known = precision in ("bf16", "fp16", "fp8", "fp32") or (precision == "fp4" and has_nvfp4(case.site.accelerator))
    return (even | uneven) & sharded & spread & shares & (plans.bubble_share == 1.0) & known


def _deepspeed(case: Case, plans: PlanNumbers, precision: str) -> Any:
    """Pipeline and expert parallelism are model code; all ranks share one copy; context ranks share heads out.

    Its tensor ranks all work on the whole sequence.
    """
    everyone = (plans.zero_stage == 0) | (plans.shards == plans.data * plans.context)
    plain = (plans.pipeline == 1) & (plans.expert == 1) & ((plans.tensor == 1) | (plans.context == 1))
    plain = plain & (case.model.heads % plans.context == 0) & ((plans.tensor == 1) | (plans.sequence_parallel == 0))
    return plain & everyone & (precision in ("bf16", "fp16", "fp32"))


_ENGINES: dict[str, Callable[[Case, PlanNumbers, str], Any]] = {
    "torchtitan": _torchtitan,
    "megatron": _megatron,
    "deepspeed": _deepspeed,
}
