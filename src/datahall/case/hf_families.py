"""Which reader knows which `model_type` of config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from datahall.case import hf_dense, hf_mixtures
from datahall.case.hf_dense import Config, Fields

FAMILIES: Mapping[str, Callable[[Config], Fields]] = {
    "llama": hf_dense.like_llama,
    "mistral": hf_dense.like_llama,
    "ministral": hf_dense.like_llama,
    "granite": hf_dense.like_llama,
    "smollm3": hf_dense.smollm3,
    "internlm3": hf_dense.like_llama,
    "phi3": hf_dense.like_llama,
    "olmo2": hf_dense.like_llama,
    "qwen": hf_dense.qwen,
    "qwen2": hf_dense.qwen2,
    "qwen3": hf_dense.qwen3,
    "qwen2_moe": hf_mixtures.qwen2_moe,
    "qwen3_moe": hf_mixtures.qwen3_moe,
    "mixtral": hf_mixtures.mixtral,
    "olmoe": hf_mixtures.olmoe,
    "gpt_oss": hf_mixtures.gpt_oss,
    "deepseek_v2": hf_mixtures.deepseek,
    "deepseek_v3": hf_mixtures.deepseek,
    "kimi_k2": hf_mixtures.deepseek,
    "glm4_moe": hf_mixtures.glm4_moe,
    "llama4_text": hf_mixtures.llama4,
    "cohere": hf_dense.cohere,
    "cohere2": hf_dense.cohere,
    "gemma": hf_dense.gemma,
    "gemma2": hf_dense.gemma2,
    "gemma3": hf_dense.gemma3,
    "gemma3_text": hf_dense.gemma3,
    "gpt2": hf_dense.gpt2,
    "gpt_bigcode": hf_dense.gpt_bigcode,
    "gpt_neox": hf_dense.gpt_neox,
    "phi": hf_dense.phi,
    "falcon": hf_dense.falcon,
    "RefinedWeb": hf_dense.falcon,
    "RefinedWebModel": hf_dense.falcon,
    "mpt": hf_dense.mpt,
    "bloom": hf_dense.bloom,
    "opt": hf_dense.opt,
    "biogpt": hf_dense.biogpt,
    "bitnet": hf_dense.like_llama,  # gated, though its activation is a plain MLP's elsewhere
    "olmo": hf_dense.olmo,
    "starcoder2": hf_dense.starcoder2,
    "nemotron": hf_dense.nemotron,
}

# Tokens of the longest sequence where a family's files leave out what equals its default.
LONGEST: Mapping[str, int] = {"gemma3": 131072, "gemma3_text": 131072}
