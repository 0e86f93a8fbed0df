"""The physical constants that published runs calibrate: what each means, where it is expected, how sure that is.

Every constant is positive; its logarithm has a normal prior.  Priors of kernels come from published kernel timings
(matrix products, attention, collectives), the others from the mechanism.  Fitting is `calibrate`'s, use `pricing`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant: expected value, standard deviation of its logarithm, and what it means."""

    name: str
    expected: float
    log_sd: float
    meaning: str


CONSTANTS: tuple[Constant, ...] = (
    Constant("product_share", 0.90, 0.06, "rate of large matrix products in a step over the best measured one (GPU)"),
    Constant("product_share_tpu", 0.80, 0.08, "the same over the dense peak (TPU)"),
    Constant("precision_gain_fp8", 1.60, 0.08, "rate of fp8 products over bf16 products"),
    Constant("precision_gain_fp4", 2.40, 0.12, "rate of fp4 products over bf16 products"),
    Constant("block_scales_share", 0.93, 0.05, "rate of dense MXFP8 products over fp8 ones with a scale a tensor"),
    Constant("power_exponent", 0.50, 0.30, "how a lower power limit lowers the rate of products"),
    Constant("attention_ampere", 0.60, 0.12, "fused attention, Ampere and older, over the best matrix product"),
    Constant("attention_hopper", 0.45, 0.15, "fused attention before Hopper kernels, on Hopper"),
    Constant("attention_hopper_recent", 0.75, 0.12, "fused attention with Hopper kernels"),
    Constant("attention_blackwell", 0.72, 0.12, "fused attention on Blackwell"),
    Constant(
        "attention_blackwell_ultra", 0.95, 0.12, "fused attention on Blackwell Ultra, which doubles the exponentials"
    ),
    Constant("attention_tpu", 0.50, 0.25, "fused attention on TPU"),
    Constant("attention_first", 0.70, 0.15, "first generation of fused attention over the second"),
    Constant("attention_unfused", 0.45, 0.25, "products of an unfused attention core"),
    Constant("attention_backward", 0.75, 0.10, "backward rate of fused attention over its forward rate"),
    Constant("attention_ramp", 800.0, 0.40, "tokens of sequence at which fused attention reaches half its rate"),
    Constant("head_width_exponent", 0.30, 0.40, "how narrow heads (below 128) lower the rate of attention"),
    Constant("memory_share", 0.85, 0.08, "memory traffic of element-wise kernels over the data sheet"),
    Constant("passes_eager", 1.60, 0.25, "element-wise traffic, each operation on its own"),
    Constant("passes_compiled", 0.90, 0.25, "element-wise traffic, compiled"),
    Constant("passes_fused", 1.10, 0.25, "element-wise traffic, hand-fused kernels"),
    Constant("passes_old", 1.60, 0.25, "element-wise traffic of Megatron before 2023"),
    Constant("passes_xla", 0.90, 0.30, "element-wise traffic under XLA"),
    Constant("score_passes", 5.0, 0.25, "how often an unfused core moves its scores"),
    Constant("launch_eager_s", 7e-6, 0.40, "host seconds to issue a kernel, eager"),
    Constant("launch_compiled_s", 4e-6, 0.40, "host seconds to issue a kernel, compiled"),
    Constant("launch_fused_s", 8e-6, 0.40, "host seconds to issue a kernel, hand-fused"),
    Constant("launch_old_s", 25e-6, 0.70, "host seconds to issue a kernel, Megatron before 2023 with its hooks"),
    Constant("launch_xla_s", 0.5e-6, 0.50, "host seconds to issue a kernel, XLA"),
    Constant("kernel_s", 4e-6, 0.30, "device seconds of an empty kernel"),
    Constant("narrow_width", 150.0, 0.40, "width at which a product takes twice its large-shape time"),
    Constant("collective_kernels", 3.0, 0.50, "launches that issuing one collective costs the host"),
    Constant("fixed_s", 0.010, 0.70, "seconds a step costs whatever it does"),
    Constant("expert_kernels", 9.0, 0.40, "launches of each local expert of a layer, forward"),
    Constant("expert_share", 0.60, 0.20, "rate of grouped expert products over dense ones"),
    Constant("permute_passes", 1.5, 0.35, "memory passes of routing tokens to experts"),
    Constant("cast_passes_fp8", 1.0, 0.35, "memory passes of converting to fp8"),
    Constant("rowwise_passes", 4.0, 0.40, "further passes with a scale for each row, over one for the tensor"),
    Constant("cast_passes_fp4", 2.0, 0.35, "memory passes of converting to fp4"),
    Constant("up_share", 0.72, 0.10, "collectives over NVLink, over the line rate"),
    Constant("up_share_tpu", 0.65, 0.30, "collectives over ICI, over all links of a chip"),
    Constant("out_share", 0.70, 0.20, "collectives over the network, over the line rate"),
    Constant("hop_latencies", 2.5, 0.30, "latency of a step of a ring over the link's empty message"),
    Constant("tensor_exposed", 0.85, 0.12, "share of tensor-parallel transfers that nothing hides"),
    Constant("tensor_overlapped", 0.40, 0.30, "what stays of it where the stack overlaps them"),
    Constant("shard_exposed", 0.15, 0.40, "share of sharded-parameter transfers that nothing hides"),
    Constant("gradient_exposed", 0.30, 0.40, "share of the gradient exchange that nothing hides"),
    Constant("gradient_bytes", 2.5, 0.25, "bytes a parameter in the gradient exchange"),
    Constant("expert_exposed", 0.70, 0.25, "share of expert transfers that nothing hides"),
    Constant("context_exposed", 0.40, 0.40, "share of context-parallel transfers that nothing hides"),
    Constant("pipeline_exposed", 0.50, 0.40, "share of transfers between stages that nothing hides"),
    Constant("transfer_units", 0.15, 0.40, "share of a GPU's arithmetic that transfers hidden behind it take"),
    Constant("straggler_share", 0.004, 0.50, "share of a step lost at each doubling of the devices"),
    Constant("selective_linear", 0.45, 0.20, "share of products that selective recomputation repeats in torchtitan"),
    Constant("update_bytes", 34.0, 0.20, "bytes a parameter that the optimiser moves"),
    Constant("update_bytes_old", 70.0, 0.50, "the same with kernels of their own to unscale, clip, copy (before 2023)"),
    Constant(
        "gradient_bytes_old", 2.4, 0.25, "bytes a parameter in the exchange of fp16 gradients, Megatron before 2023"
    ),
)


def expected() -> Mapping[str, float]:
    """The constants as the priors expect them."""
    return {constant.name: constant.expected for constant in CONSTANTS}
