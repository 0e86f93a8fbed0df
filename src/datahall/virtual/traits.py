"""What is known of a training stack from its name: how it issues kernels, what its attention is, what it overlaps.

Facts that anybody can read in the stack's own documentation; how much they matter is fitted (`constants`).  A stack
that is not known gets the usual traits of PyTorch programs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from datahall.catalog import stack_names
from datahall.catalog.stacks import block_scaled


@dataclass(frozen=True, slots=True)
class StackTraits:
    """Traits of one stack.  `issue` is how kernels reach the device: eager, compiled, fused (hand-fused), old, xla.

    `fused_attention` 0 stores the scores (before 2023); `recent_attention` 1 uses kernels written for Hopper and later;
    `overlap` 1 hides tensor-parallel transfers behind products where it can; `gradient_overlap` 1 starts exchanging
    gradients during the backward pass.
    """

    family: str
    issue: str
    release: str = ""
    fused_attention: float = 1.0
    recent_attention: float = 0.0
    overlap: float = 0.0
    gradient_overlap: float = 1.0
    early_attention: float = 0.0  # 1: FlashAttention of the first generation (2022 and 2023)
    rowwise: float = 0.0  # 1: narrow operands have a scale for each row instead of one for the tensor
    block_scales: float = 0.0  # 1: fp8 operands have a scale for each block of 32 numbers (MXFP8)
    token_drop: float = 0.0  # 1: each expert takes a fixed number of tokens, so that all of a layer are one product
    causal_skipped: float = 1.0  # 1: the masked half of the scores is not computed
    sequence_parallel: bool = True
    local_batch_in_pipeline: bool = False
    dual_pipe: float = 0.0  # 1: a forward and a backward chunk run side by side, each behind the other's transfers
    owner_broadcasts: float = 0.0  # 1: under ZeRO-1 each rank updates whole tensors and broadcasts them, one at a time
    short_gradients: float = 0.0  # 1: gradients travel in 16 bits, as its own documentation says
    weighs_inside: float = 0.0  # 1: the router's weights are applied before an expert's last product, not to its result
    fused_loss: float = 0.0  # 1: the loss keeps the scores and their gradient in 16 bits, and no copy of either
    interleaves: bool = False  # its pipelines usually hold several chunks of layers
    zero_bubble: bool = False  # it has a schedule that puts off gradients of weights, for programs issued this way


UNSTATED = "unstated"  # the family where nobody says what ran
_TORCH = StackTraits("pytorch", "eager")
_TORCH_PIPELINES = replace(_TORCH, zero_bubble=True)  # torch.distributed.pipelining, whose schedules are not compiled
_OLD_MEGATRON = StackTraits(
    "megatron-lm",
    "old",
    fused_attention=0.0,
    gradient_overlap=0.0,
    causal_skipped=0.0,
    sequence_parallel=False,
)
_BEFORE_FUSED_ATTENTION = r"pascal|volta|turing|ampere"
_CORE = StackTraits(
    "megatron-bridge",
    "fused",
    recent_attention=1.0,
    overlap=1.0,
    weighs_inside=1.0,
    fused_loss=1.0,  # its recipes take Transformer Engine's
    interleaves=True,
)
_KNOWN = (
    StackTraits("xla", "xla"),
    replace(_TORCH_PIPELINES, family="automodel", recent_attention=1.0, interleaves=True),
    _OLD_MEGATRON,
    replace(_OLD_MEGATRON, family="megatron-deepspeed"),
    _CORE,
    replace(_CORE, family="megatron-core", fused_loss=0.0),
    StackTraits("torchtitan", "compiled", local_batch_in_pipeline=True),
    StackTraits("llm-foundry", "eager", early_attention=1.0, short_gradients=1.0, fused_loss=1.0),
    replace(_CORE, family="hai-llm", dual_pipe=1.0),
    replace(_TORCH, family="meta", recent_attention=0.5, overlap=0.3, interleaves=True),
    replace(_TORCH, family="deepspeed"),
    replace(_TORCH_PIPELINES, family="internevo", owner_broadcasts=1.0, short_gradients=1.0),
    replace(_TORCH, family="fms-fsdp", short_gradients=1.0),
)
# Where nobody says what ran: plain PyTorch as often as one of these, of which Megatron's core is under most others.
_USUAL = (("Megatron-Core", 0.35), ("torchtitan", 0.15))
_BY_FAMILY = {traits.family: traits for traits in _KNOWN}  # as `catalog.stack_names` has them


_RECOMPUTES = (  # what is written, from its beginning, and what `compute.plan` calls it
    (r".*(?:quer|qkv|except_mlp)(?:.*(?:attention|context))", "keep-attention"),
    (r".*(?:quer|qkv|except_mlp)", "keep-qkv"),
    (r"full|offload|block|uniform|remat|yes|true|on\b|1\b|activation|ac\b|gradient|per.?layer", "full"),
    (r"selective|op\b|per.?op|sac\b|minimal|save", "selective"),
    (r"none|no\b|false|off\b|0\b", "none"),
)


def traits_of(framework: str, kind: str, note: str = "", architecture: str = "") -> StackTraits:
    """The traits of `framework` on an accelerator of `kind` (gpu, tpu, ...); `note` may name compilation or scales.

    Megatron-LM of before fused attention never ran on an `architecture` that is younger than it.
    """
    low, remark = framework.lower(), note.lower()
    found = _BY_FAMILY.get(stack_names.family_in(framework))
    if found is None:
        name = re.sub(r"[\s(,]*(?:v?\d+\.|\(|,).*", "", low).strip()
        usual = _TORCH_PIPELINES if not name or "torch" in name else _TORCH
        found = StackTraits("xla", "xla") if kind == "tpu" else replace(usual, family=name or UNSTATED)
    if found.issue == "old" and architecture and not re.match(_BEFORE_FUSED_ATTENTION, architecture):
        found = replace(_CORE, family=found.family)
    release = re.search(r"(\d+\.\d+(?:\.\d+)*)", framework)
    found = replace(found, release=release[1] if release else "")
    if found.issue == "compiled" and re.search(r"eager|no torch\.compile", remark):
        found = replace(found, issue="eager")
    if re.search(r"row-?wise(?! known)", remark):
        found = replace(found, rowwise=1.0)
    if block_scaled(f"{low} {remark}"):
        found = replace(found, block_scales=1.0)
    if re.search(r"async ?tp|asynctp", remark) and not re.search(r"vanilla", remark):
        found = replace(found, overlap=1.0)
    if re.search(r"token[- ]?drop", remark):
        found = replace(found, token_drop=1.0)
    if re.search(r"attention not fused|unfused attention|no (?:fused|flash) ?attention", remark):
        found = replace(found, fused_attention=0.0)
    if re.search(r"gradients in (?:bf16|fp16|16 bits)|grad_sync_dtype\W+bf16|grad_reduce_in_fp32\W+false", remark):
        found = replace(found, short_gradients=1.0)
    if found.family == "xla" and kind != "tpu":
        found = replace(found, family="xla-gpu", recent_attention=0.5)
    return found


def readings_of(framework: str, kind: str, note: str = "", architecture: str = "") -> list[tuple[StackTraits, float]]:
    """The stacks that a run may be of, with weights: `framework`, or on GPUs the usual ones where nobody names one.

    Arguments as for `traits_of`, whose answer comes first.
    """
    found = traits_of(framework, kind, note, architecture)
    if found.family != UNSTATED:
        return [(found, 1.0)]
    others = [(traits_of(name, kind, note, architecture), weight) for name, weight in _USUAL]
    return [(found, 1.0 - sum(weight for _, weight in _USUAL)), *others]


def recompute_of(text: str, traits: StackTraits, mixture: bool) -> list[tuple[str, float]]:
    """Recomputation as `compute.plan` knows it, with weights; several where a row leaves it open."""
    low = text.lower()
    if "or none" in low:
        return [("selective", 0.5), ("none", 0.5)]
    if part := re.search(r"(\d+) of (\d+) layers", low):
        share = min(1.0, int(part[1]) / max(1, int(part[2])))
        return [("full", share), ("none", 1.0 - share)]
    for pattern, kind in _RECOMPUTES:
        if re.match(pattern, low):
            return [(kind, 1.0)]
    if low:
        return [("selective", 0.5), ("none", 0.5)]
    if traits.issue == "xla":
        return [("full", 0.5), ("selective", 0.5)]
    if traits.family in {"megatron-deepspeed", "deepspeed"}:
        return [("full", 0.7), ("none", 0.3)]
    if mixture:
        return [("none", 0.6), ("selective", 0.4)]
    return [("none", 0.8), ("full", 0.2)]
