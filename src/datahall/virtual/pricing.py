"""From what is known of an accelerator, its links and a stack to the inputs of a step, by the calibrated constants.

Numbers or arrays throughout, so that one plan and all published rows take the same path.  Steps are `step_time`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np

from datahall.case.site import Accelerator
from datahall.catalog import accelerators
from datahall.compute.adapters import AdapterNumbers
from datahall.compute.counts import ShapeCounts
from datahall.compute.estimate import DeviceRates
from datahall.compute.memory import MemoryHabits
from datahall.virtual.calibration import peak_flops_per_s
from datahall.virtual.habits import StackHabits
from datahall.virtual.links import LinkRates, stack_links
from datahall.virtual.step_time import StepInputs
from datahall.virtual.traits import StackTraits

_USUAL_SHARE = 0.80  # best measured matrix product over the dense peak, median of the accelerators measured
_HOPPER, _BLACKWELL, _ULTRA, _TPU = 2.0, 3.0, 3.5, 4.0
_ISSUES = {"eager": 0.0, "compiled": 1.0, "fused": 2.0, "old": 3.0, "xla": 4.0}


@dataclass(frozen=True, slots=True)
class Setting:
    """Plain numbers of an accelerator in one precision, its links and a stack; fields may be arrays."""

    product_flops_per_s: Any  # best measured 16-bit product, or its sibling's, or the usual share of the peak
    power_ratio: Any  # power limit over that of the sibling that was measured (1: itself)
    precision_cap: Any  # peak at the precision over the 16-bit peak
    bits: Any
    generation: Any  # 1 Ampere and others, 2 Hopper, 3 Blackwell, 3.5 Blackwell Ultra, 4 TPU
    memory_bytes_per_s: Any
    links: LinkRates  # at their line rates
    issue: Any
    fused_attention: Any
    recent_attention: Any
    overlap: Any
    gradient_overlap: Any
    causal_skipped: Any
    rowwise: Any  # 1 where narrow operands have a scale for each row
    block_scales: Any  # 1 where fp8 operands have a scale for each block
    token_drop: Any  # 1 where each expert takes a fixed number of tokens
    dual_pipe: Any  # 1 where expert and pipeline transfers hide behind another micro-batch's arithmetic
    owner_broadcasts: Any  # 1 where each rank broadcasts the tensors that it updated
    short_gradients: Any  # 1 where gradients travel in 16 bits
    weighs_inside: Any  # 1 where an expert's result is not kept, since the router's weights are already in it
    fused_loss: Any  # 1 where the loss keeps scores and their gradient in 16 bits alone
    early_attention: Any  # 1 where fused attention is of the first generation
    repeats_products: Any  # 1 where selective recomputation repeats products (torchtitan), 0 where the attention core


def setting_of(accelerator: Accelerator, precision: str, traits: StackTraits, links: LinkRates) -> Setting:
    """The numbers of one accelerator and stack; `links` at their line rates.  Incompatible without the precision."""
    peak = peak_flops_per_s(accelerator, precision)
    wide = accelerator.peak_flops_per_s.get("bf16") or accelerator.peak_flops_per_s.get("fp16") or peak
    best, power = _best_product(accelerator.name, wide, accelerator.power_w)
    if accelerator.measured_flops_per_s.get("bf16"):
        best, power = accelerator.measured_flops_per_s["bf16"], 1.0
    bits = {"fp8": 8.0, "int8": 8.0, "fp4": 4.0, "fp32": 32.0, "tf32": 32.0}.get(precision, 16.0)
    return Setting(
        product_flops_per_s=best if bits <= 16 else min(best, _USUAL_SHARE * peak),
        power_ratio=power,
        precision_cap=max(1.0, peak / wide),
        bits=bits,
        generation=_generation(accelerator),
        memory_bytes_per_s=accelerator.memory_bytes_per_s,
        links=links,
        issue=_ISSUES[traits.issue],
        fused_attention=traits.fused_attention,
        recent_attention=traits.recent_attention,
        overlap=traits.overlap,
        gradient_overlap=traits.gradient_overlap,
        causal_skipped=traits.causal_skipped,
        rowwise=traits.rowwise,
        block_scales=traits.block_scales,
        token_drop=traits.token_drop,
        dual_pipe=traits.dual_pipe,
        owner_broadcasts=traits.owner_broadcasts,
        short_gradients=traits.short_gradients,
        weighs_inside=traits.weighs_inside,
        fused_loss=traits.fused_loss,
        early_attention=traits.early_attention,
        repeats_products=1.0 if traits.family == "torchtitan" else 0.0,
    )


def stack_settings(settings: Sequence[Setting]) -> Setting:
    """Several settings as arrays, element i being `settings[i]`."""
    names = [field.name for field in fields(Setting) if field.name != "links"]
    plain: dict[str, Any] = {name: np.array([float(getattr(one, name)) for one in settings]) for name in names}
    return Setting(links=stack_links([one.links for one in settings]), **plain)


def step_inputs(
    counts: ShapeCounts,
    sequence: Any,
    setting: Setting,
    constants: Mapping[str, Any],
    trainable_share: Any = 1.0,
    adapters: AdapterNumbers | None = None,
) -> StepInputs:
    """What a step follows from."""
    return StepInputs(
        counts,
        sequence,
        _rates(counts, sequence, setting, constants),
        _links(setting, constants),
        _habits(setting, constants),
        trainable_share,
        memory_habits(setting),
        adapters or AdapterNumbers(),
    )


def memory_habits(at: Setting) -> MemoryHabits:
    """What stacks keep: eager and compiled PyTorch hold scores in 16 and 32 bits; torchtitan keeps half of a layer.

    XLA's "minimal" policy keeps what products give and repeats the rest of a layer (MaxText's documentation): of 8 h +
    3 f numbers a token, for hidden width h and an MLP of width f = 4 h, 5 h + 2 f.  It places every buffer when it
    compiles, so that nothing is lost between them.
    """
    torch = np.asarray(at.issue) <= _ISSUES["compiled"]
    eager = np.asarray(at.issue) == _ISSUES["eager"]
    xla = np.asarray(at.issue) == _ISSUES["xla"]
    products_kept = np.where(xla, 0.65, 1.0)
    return MemoryHabits(
        selective_kept=np.where(np.asarray(at.repeats_products) > 0, np.where(eager, 0.54, 0.46), products_kept),
        routed_copies=np.where(np.asarray(at.weighs_inside) > 0, 1.0, 2.0),
        logit_bytes=np.where(np.asarray(at.fused_loss) > 0, 4.0, np.where(torch, 12.0, 8.0)),
        gathered_copies=np.where(torch, 5.0, 1.0),
        pipeline_whole_bytes=np.where(torch, 6.0, 0.0),  # 16-bit weights and 32-bit gradients
        fragmentation_share=np.where(xla, 0.0, MemoryHabits().fragmentation_share),
    )


def _rates(counts: ShapeCounts, sequence: Any, at: Setting, c: Mapping[str, Any]) -> DeviceRates:
    on_tpu = np.asarray(at.generation) == _TPU
    share = np.where(on_tpu, c["product_share_tpu"], c["product_share"])
    wide = at.product_flops_per_s * np.power(at.power_ratio, c["power_exponent"]) * share
    bits = np.asarray(at.bits)
    blocks = np.where((bits == 8) & (np.asarray(at.block_scales) > 0), c["block_scales_share"], 1.0)
    half_more = np.sqrt(
        np.maximum(1.0, at.precision_cap / 4.0)
    )  # of what the peak gains over four times the 16-bit one
    fp8 = c["precision_gain_fp8"] * blocks
    gain = np.where(bits >= 16, 1.0, np.where(bits >= 8, fp8, c["precision_gain_fp4"] * half_more))
    return DeviceRates(
        linear_flops_per_s=wide * np.minimum(gain, at.precision_cap),
        wide_flops_per_s=wide,
        attention_flops_per_s=wide / share * _attention_share(counts, sequence, at, c),
        memory_bytes_per_s=at.memory_bytes_per_s * np.minimum(1.0, c["memory_share"]),
        launch_s=_by_issue(at, c, "launch_{}_s"),
        kernel_s=np.where(on_tpu, 0.5, 1.0) * c["kernel_s"],
        fixed_s=c["fixed_s"],
        attention_backward_share=np.where(np.asarray(at.fused_attention) > 0, c["attention_backward"], 1.25),
        expert_share=c["expert_share"] / blocks,  # grouped products gain by blocks what they lose: no scale an expert
        element_passes=_by_issue(at, c, "passes_{}"),
        cast_passes=np.where(bits >= 16, 0.0, np.where(bits >= 8, c["cast_passes_fp8"], c["cast_passes_fp4"]))
        * np.where(np.asarray(at.rowwise) > 0, c["rowwise_passes"], 1.0),
        narrow_width=c["narrow_width"],
        collective_kernels=c["collective_kernels"],
        permute_passes=c["permute_passes"],
        word_bytes=np.where(bits > 16, 4.0, 2.0),
        causal_share=1.0 - 0.5 * at.causal_skipped,
        score_passes=np.where(np.asarray(at.fused_attention) > 0, 0.0, c["score_passes"]),
    )


def _attention_share(counts: ShapeCounts, sequence: Any, at: Setting, c: Mapping[str, Any]) -> Any:
    generation = np.asarray(at.generation)
    recent = np.asarray(at.recent_attention)
    hopper = c["attention_hopper"] * (1.0 - recent) + c["attention_hopper_recent"] * recent
    known = [generation == _TPU, generation == _ULTRA, generation == _BLACKWELL, generation == _HOPPER]
    shares = [c["attention_tpu"], c["attention_blackwell_ultra"], c["attention_blackwell"], hopper]
    fused = np.select(known, shares, c["attention_ampere"])
    fused = fused * np.where(np.asarray(at.early_attention) > 0, c["attention_first"], 1.0)
    width = np.minimum(1.0, counts.score_width / counts.heads / 128.0)
    fused = fused * np.power(width, c["head_width_exponent"]) * sequence / (sequence + c["attention_ramp"])
    return np.where(np.asarray(at.fused_attention) > 0, fused, c["attention_unfused"])


def _links(at: Setting, c: Mapping[str, Any]) -> LinkRates:
    up = np.where(np.asarray(at.generation) == _TPU, c["up_share_tpu"], c["up_share"])
    return at.links.scaled(up, c["hop_latencies"], c["out_share"])


def _habits(at: Setting, c: Mapping[str, Any]) -> StackHabits:
    later = np.asarray(at.gradient_overlap)
    old = np.asarray(at.issue) == _ISSUES["old"]
    return StackHabits(
        tensor_exposed=np.minimum(1.0, c["tensor_exposed"] * (1.0 - at.overlap * (1.0 - c["tensor_overlapped"]))),
        context_exposed=np.minimum(1.0, c["context_exposed"]),
        expert_exposed=(1.0 - at.dual_pipe) * np.minimum(1.0, c["expert_exposed"]),
        expert_hidden=at.dual_pipe,
        shard_exposed=np.minimum(1.0, c["shard_exposed"]),
        gradient_exposed=np.where(later > 0, np.minimum(1.0, c["gradient_exposed"]), 1.0),
        gradient_cover=np.where(later > 0, 0.7, 0.0),
        parameters_ahead=np.where(np.asarray(at.issue) == _ISSUES["fused"], 1.0, 0.0),
        pipeline_exposed=(1.0 - at.dual_pipe) * np.minimum(1.0, c["pipeline_exposed"]),
        selective_linear=at.repeats_products * np.minimum(1.0, c["selective_linear"]),
        selective_core=1.0 - at.repeats_products,
        last_repeated=np.where(np.asarray(at.issue) == _ISSUES["xla"], 0.0, 1.0),
        gradient_bytes=np.where(
            np.asarray(at.short_gradients) > 0, 2.0, np.where(old, c["gradient_bytes_old"], c["gradient_bytes"])
        ),
        update_bytes=np.where(old, c["update_bytes_old"], c["update_bytes"]),
        expert_kernels=c["expert_kernels"] * (1.0 - at.token_drop),
        owner_broadcasts=at.owner_broadcasts,
        transfer_units=np.where(np.asarray(at.generation) == _TPU, 0.0, c["transfer_units"]),
        straggler_share=c["straggler_share"],
    )


def _by_issue(at: Setting, c: Mapping[str, Any], pattern: str) -> Any:
    code = np.asarray(at.issue)
    values = [c[pattern.format(name)] for name in _ISSUES]
    return np.select([code == number for number in _ISSUES.values()], values, values[0])


def _generation(accelerator: Accelerator) -> float:
    if accelerator.kind == "tpu":
        return _TPU
    if accelerator.architecture.startswith("blackwell"):
        return _ULTRA if accelerator.architecture.endswith("ultra") else _BLACKWELL
    return _HOPPER if accelerator.architecture in {"hopper", "cdna3", "cdna4"} else 1.0


@cache
def _best_product(name: str, wide_peak: float, power_w: float) -> tuple[float, float]:
    """The best 16-bit product of the measured sibling, scaled by peak, and the power limit over the sibling's."""
    try:
        own = accelerators.accelerator(name)
    except Exception:
        return _USUAL_SHARE * wide_peak, 1.0
    if own.kind == "tpu":
        return wide_peak, 1.0
    family = own.architecture.removesuffix("-ultra")
    for other_name in accelerators.names():
        other = accelerators.accelerator(other_name)
        measured = other.measured_flops_per_s.get("bf16")
        if (
            other.name != own.name
            and measured
            and other.architecture.removesuffix("-ultra") == family
            and other.power_w
        ):
            share = measured / other.peak_flops_per_s["bf16"]
            budget = (power_w or other.power_w) / wide_peak
            return share * wide_peak, min(1.0, budget / (other.power_w / other.peak_flops_per_s["bf16"]))
    return _USUAL_SHARE * wide_peak, 1.0
