"""How mixture-of-experts families write their shape into config.json: one small reader a family.

As in `hf_dense`: a reader gives the fields of a `ModelShape` and raises KeyError for a field that is missing.
"""

from __future__ import annotations

import re

from datahall.base.errors import CaseError
from datahall.case.hf_dense import Config, Fields, like_llama, qwen2, qwen3
from datahall.case.model import LatentAttention, ModelShape

_SHARED = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size")
_WIDTHS = ("moe_intermediate_size", *_SHARED)
_ROUTED = re.compile(r"(moe_)?(num|n)_(local_|routed_)?experts")
_PLAIN = ("relu", "relu2", "xielu")  # activations of an MLP without a gate; others have one or may have one


def inferred(c: Config) -> Fields:
    """An unknown architecture by the fields that it states: latent attention, experts, or neither."""
    if c.get("kv_lora_rank"):
        return deepseek(c)
    experts = c.get("num_experts") or c.get("num_local_experts") or c.get("n_routed_experts") or 0
    if not experts:
        foreign = sorted(key for key in c if "expert" in key or key.startswith("moe_"))
        if foreign:
            raise KeyError(f"num_experts, because {foreign[0]} is there")
        return like_llama(c, mlp_matrices=2 if c.get("hidden_act") in _PLAIN else 3)
    _check_widths(c)
    of_shared = next((c[key] for key in _SHARED if c.get(key)), 0)
    shared = c.get("n_shared_experts") or c.get("num_shared_experts") or int(of_shared > 0)
    width = c.get("moe_intermediate_size") or c["intermediate_size"]
    return like_llama(c) | {
        "ffn": width,
        "experts": experts,
        "experts_per_token": c["num_experts_per_tok"],
        "shared_experts": shared,
        "shared_ffn": (of_shared or width) if shared else 0,
        "dense_layers": _dense(c),
        "dense_ffn": c["intermediate_size"],
    }


def check_experts(c: Config, shape: ModelShape, where: str) -> None:
    """CaseError for a config that states experts and was read as having none, or whose tokens pass through too many."""
    found = [(key, n) for key, n in c.items() if _ROUTED.fullmatch(key) and isinstance(n, int) and n > 1]
    if found and not shape.experts:
        raise CaseError(
            f"{found[0][0]} is {found[0][1]}, but its other fields were read as those of a model with no experts.",
            where=where,
            hint="State its shape inline in the case; if it has no experts, remove that field.",
        )
    if shape.experts and not 0 < shape.experts_per_token <= shape.experts:
        raise CaseError(
            f"a token cannot pass through {shape.experts_per_token} of {shape.experts} experts.",
            where=where,
            hint="num_experts_per_tok must be from 1 to the number of experts.",
        )


def qwen2_moe(c: Config) -> Fields:
    """Qwen2 MoE: one shared expert of its own width; every layer a mixture, or some."""
    return {
        **qwen2(c),
        "ffn": c["moe_intermediate_size"],
        "experts": _routed(c),
        "experts_per_token": c["num_experts_per_tok"],
        "shared_experts": 1,
        "shared_ffn": c["shared_expert_intermediate_size"],
        **_dense_between(c),
    }


def qwen3_moe(c: Config) -> Fields:
    """Qwen3 MoE: no shared expert."""
    return {
        **qwen3({"head_dim": c["hidden_size"] // c["num_attention_heads"], **c}),
        "ffn": c["moe_intermediate_size"],
        "experts": _routed(c),
        "experts_per_token": c["num_experts_per_tok"],
        **_dense_between(c),
    }


def mixtral(c: Config) -> Fields:
    """Mixtral: every layer a mixture."""
    return like_llama(c, experts=_routed(c), experts_per_token=c["num_experts_per_tok"])


def olmoe(c: Config) -> Fields:
    """OLMoE: every layer a mixture."""
    return like_llama(c, experts=_routed(c), experts_per_token=c["num_experts_per_tok"])


def gpt_oss(c: Config) -> Fields:
    """GPT-OSS: biases everywhere, every other layer windowed."""
    plain = {**c, "head_dim": c.get("head_dim") or 64, "attention_bias": c.get("attention_bias", True)}
    share: Fields = {} if c.get("layer_types") else {"window_share": 0.5}
    return like_llama(plain, mlp_bias=True, experts=_routed(c), experts_per_token=c["num_experts_per_tok"], **share)


def deepseek(c: Config) -> Fields:
    """DeepSeek-V2, V3 and Kimi K2: latent attention, shared experts, first layers dense."""
    latent = LatentAttention(
        c.get("q_lora_rank") or 0, c["kv_lora_rank"], c["qk_rope_head_dim"], c["qk_nope_head_dim"], c["v_head_dim"]
    )
    shared = c.get("n_shared_experts") or 0
    routed = c.get("n_routed_experts") or 0
    fields = {**like_llama(c), "latent": latent, "head_dim": latent.nope_dim + latent.rope_dim}
    if not routed:
        return fields
    return {
        **fields,
        "ffn": c["moe_intermediate_size"],
        "experts": routed,
        "experts_per_token": c["num_experts_per_tok"],
        "shared_experts": shared,
        "shared_ffn": c["moe_intermediate_size"] if shared else 0,
        "dense_layers": _dense(c),
        "dense_ffn": c["intermediate_size"],
    }


def glm4_moe(c: Config) -> Fields:
    """GLM-4.5: grouped queries, shared expert, first layers dense."""
    shared = c.get("n_shared_experts") or 0
    bias = bool(c.get("attention_bias", False))
    return like_llama(c, query_key_norm=bool(c.get("use_qk_norm", False))) | {
        "attention_bias": bias,
        "output_bias": False,
        "ffn": c["moe_intermediate_size"],
        "experts": c["n_routed_experts"],
        "experts_per_token": c["num_experts_per_tok"],
        "shared_experts": shared,
        "shared_ffn": c["moe_intermediate_size"] if shared else 0,
        "dense_layers": _dense(c),
        "dense_ffn": c["intermediate_size"],
    }


def llama4(c: Config) -> Fields:
    """Llama 4: one shared expert, mixtures in every layer or every other; three of four layers attend in chunks."""
    step = c.get("interleave_moe_layer_step", 1) or 1
    layers = c["num_hidden_layers"]
    mixtures = len(c.get("moe_layers") or ()) or layers // step
    rotary = c.get("no_rope_layers")  # 1 where there are rotary positions, and chunks
    return like_llama(c) | {
        "window": c.get("attention_chunk_size", 8192),
        "chunked": True,
        "window_share": sum(rotary) / len(rotary) if rotary else 1 - 1 / c.get("no_rope_layer_interval", 4),
        "experts": _routed(c),
        "experts_per_token": c.get("num_experts_per_tok", 1),
        "shared_experts": 1,
        "shared_ffn": c["intermediate_size"],
        "dense_layers": layers - mixtures,
        "dense_ffn": c.get("intermediate_size_mlp", 0),
    }


def _check_widths(c: Config) -> None:
    """ValueError for an unknown mixture that states a width which no reader here knows the meaning of."""
    about = (key for key in c if ("expert" in key or "moe" in key) and key.endswith(("_size", "_dim", "_rank")))
    odd = [key for key in about if key not in _WIDTHS]
    if odd:
        raise ValueError(f"what is as wide as {', '.join(odd)} is not known")


def _routed(c: Config) -> int:
    """Routed experts under either name: transformers 5 saves as `num_local_experts` what files called `num_experts`."""
    return c.get("num_local_experts") or c["num_experts"]


def _dense(c: Config) -> int:
    """Dense layers of a mixture: listed as transformers 5 writes them, the first so many, or Qwen's."""
    listed = c.get("mlp_layer_types")
    if listed:
        return sum(kind == "dense" for kind in listed)
    first = c.get("first_k_dense_replace") or c.get("num_dense_layers") or 0
    return min(first, c["num_hidden_layers"]) or _dense_between(c)["dense_layers"]


def _dense_between(c: Config) -> Fields:
    """Qwen's dense layers: those that it lists, and those between every so-manieth one."""
    layers, step = c["num_hidden_layers"], c.get("decoder_sparse_step") or 1
    listed = sum((layer + 1) % step == 0 for layer in set(c.get("mlp_only_layers") or ()) if layer < layers)
    return {"dense_layers": layers - layers // step + listed, "dense_ffn": c.get("intermediate_size", 0)}
