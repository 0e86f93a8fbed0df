"""Model FLOPs utilisation, defined once for all of datahall, and what follows from it without any detail.

Model FLOPs are those of the forward and backward pass of the model as it is written: recomputation does not count, and
the peak is the dense one of the precision of the linear layers.  What a real step takes is `estimate`'s work.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from datahall.base.errors import UsageError
from datahall.base.formula import formula
from datahall.compute.counts import ShapeCounts

Number = TypeVar("Number", float, np.ndarray)

BITS_OF = {"fp32": 32, "tf32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4}


@formula(
    equation="MFU = model FLOP/s of one device / its dense peak",
    source="PaLM (arXiv 2204.02311), appendix B",
    holds="the peak is dense and of the precision of the linear layers; more than 1 is an error, not a number",
)
def mfu(model_flops_per_s: Number, peak_flops_per_s: Number) -> Number:
    """Share of the dense peak that the model's own FLOPs reach.

    Raises UsageError for a share above 1 or a peak that is not above 0: then the FLOPs were counted in another way
    (recomputation), the peak is another precision's, or the time is wrong.
    """
    if np.any(np.asarray(peak_flops_per_s) <= 0):
        raise UsageError("a peak of zero FLOP/s has no utilisation.", hint="State the dense peak of the precision.")
    share = model_flops_per_s / peak_flops_per_s
    if np.any(np.asarray(share) > 1):
        raise UsageError(
            f"an MFU of {100 * float(np.max(share)):.1f} % cannot be.",
            hint="Check the precision of the peak (dense), the time, and that recomputation is left out.",
        )
    return share


def model_flops_per_step(counts: ShapeCounts, sequence: int, sequences: int, adapters: int | None = None) -> float:
    """Forward and backward FLOPs of a step as MFU counts them: 6 per weight and token, 12 s h per layer in full.

    With `adapters` (their parameters) all other weights are frozen and count 4: nobody asks for their gradient.
    """
    each, thin = (6.0, 0) if adapters is None else (4.0, adapters)
    weights = each * (counts.layer_weights + counts.head_weights) + 6.0 * thin
    return sequences * (sequence * weights + _core_flops(counts, sequence))


def step_mfu(
    counts: ShapeCounts,
    sequence: int,
    sequences: int,
    step_s: float,
    peak_flops_per_s: float,
    adapters: int | None = None,
) -> float:
    """MFU of a step of `sequences` against the peak of all devices together; `adapters` as `model_flops_per_step`.

    The numerator is a definition and no count of what was done; attention is taken causally where a long sequence in
    full would make more than the peak.  UsageError above 1 even so.
    """
    flops = model_flops_per_step(counts, sequence, sequences, adapters)
    if flops > step_s * peak_flops_per_s:
        flops -= 0.5 * sequences * _core_flops(counts, sequence)
    return float(mfu(flops / step_s, peak_flops_per_s))


@formula(
    equation="T = 6 N D / (devices x peak x MFU)",
    source="Scaling Laws for Neural Language Models (arXiv 2001.08361), section 2.1: 6 FLOPs a parameter and token",
    holds="dense models with short sequences: the attention core is left out; N without embeddings is nearer",
)
def training_s(parameters: Number, tokens: Number, devices: Number, peak_flops_per_s: Number, share: Number) -> Number:
    """Seconds of a training run by its parameters and tokens at a given MFU (`share`)."""
    return 6 * parameters * tokens / (devices * peak_flops_per_s * share)


@formula(
    equation="bytes = N (2 + 2 + 4 + 4 + 4)",
    source="ZeRO (arXiv 1910.02054), section 3.1",
    holds="Adam in mixed precision: 16-bit weights and gradients, fp32 copy, momentum and variance; no activations",
)
def adam_mixed_precision_bytes(parameters: Number) -> Number:
    """Bytes of weights, gradients and optimiser state of a training run before anything is sharded."""
    return 16 * parameters


def weight_bytes(parameters: Number, precision: str) -> Number:
    """Bytes of `parameters` weights stored in `precision`, without scales; FP4 is half a byte each."""
    return parameters * BITS_OF[precision] / 8


def _core_flops(counts: ShapeCounts, sequence: int) -> float:
    """Of one sequence's attention, scores and values, forward and backward."""
    return sequence * 6.0 * counts.layers * float(counts.keys(sequence)) * (counts.score_width + counts.value_width)
