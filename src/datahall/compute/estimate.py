"""What a row of the step table takes: seconds from FLOPs, bytes, kernels and plain device numbers.

The same functions price a published cluster and this machine; only the numbers in `DeviceRates` differ.
Plain numbers or arrays.  Overlap and waiting are `virtual.step_time`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datahall.base.formula import formula


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """What one device does in a second, under one software stack.

    The three product rates are what large products reach (not data-sheet peaks).  `kernel_s` is what a kernel costs on
    the device even when it has nothing to do (ramp up, tail); `launch_s` is the host's time to issue one;
    `element_passes` multiplies element-wise traffic (1: every operation reads and writes memory once, fused ones less);
    `cast_passes` counts how often operands narrower than 16 bits are read and written to be converted.
    """

    linear_flops_per_s: Any  # matrix products of the linear layers, at the plan's precision
    wide_flops_per_s: Any  # 16-bit (or fp32 on a processor without it) products: logits, routers
    attention_flops_per_s: Any  # attention core forward, causal FLOPs
    memory_bytes_per_s: Any
    launch_s: Any = 0.0
    kernel_s: Any = 0.0
    cut_s: Any = 0.0  # per micro-step of a stage: what keeping track of cut tensors takes the host besides (DTensor)
    fixed_s: Any = 0.0  # per optimiser step: loss reduction, logging, data, synchronisation
    attention_backward_share: Any = 0.75  # backward rate of the attention core over its forward rate
    attention_head_s: Any = 0.0  # what the core of one sequence and head takes besides, however short (tiles, packing)
    attention_head_backward_s: Any = 0.0
    expert_share: Any = 1.0  # rate of grouped expert products over a dense product's
    element_passes: Any = 1.0
    cast_passes: Any = 0.0
    permute_passes: Any = 1.0
    word_bytes: Any = 2.0  # of activations and of weights in products (4 in fp32 runs)
    narrow_width: Any = 0.0  # a product with inner and outer widths of this takes twice its large-shape time
    collective_kernels: Any = 0.0  # what issuing one collective costs the host, in launches
    causal_share: Any = 0.5  # of the full attention core that the kernel really computes
    score_passes: Any = 0.0  # how often an unfused core moves its scores through memory, forward (fused: never)


@formula(
    equation="t = ((F/R)^3 + (L/B)^3)^(1/3) + t0",
    source="roofline (Williams, Waterman, Patterson 2009) with a smooth knee; exponent, t0: published kernel timings",
    holds="one matrix product; within 10 % of 90 % of the published timings per device",
)
def product_s(
    flops: Any, moved_bytes: Any, flops_per_s: Any, bytes_per_s: Any, kernel_s: Any = 0.0, kernels: Any = 1.0
) -> Any:
    """Seconds of `kernels` equal matrix products with `flops` and `moved_bytes` in all."""
    arithmetic, memory = flops / flops_per_s, moved_bytes / bytes_per_s
    return np.cbrt(arithmetic * arithmetic * arithmetic + memory * memory * memory) + kernels * kernel_s


def traffic_s(moved_bytes: Any, bytes_per_s: Any, kernel_s: Any = 0.0, kernels: Any = 0.0) -> Any:
    """Seconds of element-wise kernels that move `moved_bytes` through memory."""
    return moved_bytes / bytes_per_s + kernels * kernel_s


@formula(
    equation="t = (d^4 + h^4)^(1/4)",
    source="datahall; the later of two pipelined activities with a soft corner",
    holds="device and host run side by side; the slower one rules",
)
def issued_s(device_s: Any, host_s: Any) -> Any:
    """Seconds of work that takes `device_s` on the device and `host_s` to issue."""
    device, host = device_s * device_s, host_s * host_s
    return np.sqrt(np.sqrt(device * device + host * host))


@formula(
    equation="E (1 - (1 - k/E)^T)",
    source="datahall; the mean of distinct experts when each of T tokens draws k of E at random",
    holds="tokens that choose experts evenly and apart from one another",
)
def experts_touched(experts: Any, chosen: Any, tokens: Any) -> Any:
    """Experts of a layer whose weights are read for so many tokens; 0 where there are none."""
    known = np.maximum(experts, 1.0)
    return experts * (1.0 - np.power(1.0 - np.minimum(1.0, chosen / known), tokens))


@formula(
    equation="t = roofline(2 T N/n, w N/n) + (T C k + A)/(n B) + l t0",
    source="Pope et al. 2022, Efficiently scaling transformer inference (arXiv 2211.05102), sections 2 and 3",
    holds="decoder-only models; weights and cache in memory, evenly cut over the devices of a copy; no transfers",
)
def inference_s(
    flops: Any, weight_bytes: Any, cache_bytes: Any, flops_per_s: Any, bytes_per_s: Any, layers: Any, layer_s: Any
) -> Any:
    """Seconds of one forward pass on one device: products beside their weights' bytes, then the cache, then launches.

    Of a prompt (many tokens a sequence) the products rule, of tokens one after another the bytes.
    """
    return product_s(flops, weight_bytes, flops_per_s, bytes_per_s) + cache_bytes / bytes_per_s + layers * layer_s
