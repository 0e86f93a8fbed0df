"""What of a model Megatron-LM is told beside its sizes, and what of it no flag of `pretrain_gpt.py` says.

By the traits of its shape (`case.hf_traits`).  Sizes, positions' base and the split are told in `export_engines`.
"""

from __future__ import annotations

from typing import Any

from datahall.case.model import ModelShape

_UNSAID = {
    "geglu": "MLPs gated by GELU (here by SiLU)",
    "relu2-glu": "MLPs gated by squared ReLU (here by SiLU)",
    "relu": "MLPs with ReLU (here GELU)",
    "xielu": "MLPs with xIELU (here GELU)",
    "post-norm": "norms behind attention and MLP (here before)",
    "wide-qk-norm": "norms over all heads' queries and over all heads' keys (here none)",
    "qk-l2-norm": "norms without weights on queries and keys (here none; --qk-l2-norm has them in all layers)",
    "embedding-norm": "a norm behind the embedding (here none)",
    "parallel": "attention and MLP side by side (here one after the other)",
    "alibi": "ALiBi's bias on scores (here no positions)",
    "relative": "learned relative positions (here none)",
    "no-rope-layers": "layers without rotary positions (here all have them; --no-rope-freq leaves some out)",
    "softcap": "capped scores or logits",
    "sinks": "a sink in each softmax and clamped gates (in place of --swiglu: --softmax-type learnable --quick-geglu "
    "--glu-linear-offset 1 --activation-func-clamp-value 7)",
    "interleaved": "dense layers between the mixtures (here before them)",
    "scaled": "embeddings, residuals or logits scaled by constants",
}


def trait_flags(shape: ModelShape) -> dict[str, Any]:
    """Activation, norm and kind of positions as flags of `pretrain_gpt.py`."""
    words = shape.traits.split()
    flags: dict[str, Any] = {"position-embedding-type": "learned_absolute" if shape.learned_positions else "rope"}
    if not has_rotary(shape) and not shape.learned_positions:
        flags["position-embedding-type"] = "none"
    if shape.mlp_matrices == 3:
        flags["swiglu"] = True
    elif "relu2" in words:
        flags["squared-relu"] = True
        if shape.mlp_bias:
            flags["no-bias-gelu-fusion"] = True  # its check knows no fusion of this one
    usual = shape.mlp_matrices == 3 and not shape.norm_bias and "layernorm" not in words
    if shape.norms_per_layer and (usual or "rmsnorm" in words):
        flags["normalization"] = "RMSNorm"
    if "layernorm-1p" in words:
        flags["apply-layernorm-1p"] = True
    return flags


def has_rotary(shape: ModelShape) -> bool:
    """Whether its positions are rotary ones: neither learned nor a bias."""
    return not shape.learned_positions and not {"alibi", "relative"} & set(shape.traits.split())


def unsaid(shape: ModelShape, sequence: int) -> list[str]:
    """What the model has on sequences of so many tokens and flags do not say, with what runs in its place."""
    found = [words for trait, words in _UNSAID.items() if trait in shape.traits.split()]
    if shape.norms_per_layer != 2:
        counted = f"{shape.norms_per_layer} norms a layer" if shape.norms_per_layer else "norms without parameters"
        found.append(f"{counted} (here 2)" if shape.norms_per_layer else counted)
    if shape.chunked and 0 < shape.window < sequence:
        found.append(f"attention in chunks of {shape.window:,} tokens (here windows of as many)")
    if shape.output_bias and not shape.mlp_bias:
        found.append("a bias of the attention's output")
    if shape.experts:
        found.append("how its router scores, groups and balances (here the defaults)")
    return found
