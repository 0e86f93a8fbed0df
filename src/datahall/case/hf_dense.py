"""How dense families of models write their shape into config.json: one small reader a family.

A reader takes the (text) config and gives the fields of a `ModelShape`; it raises KeyError for a field that is missing.
Defaults are those that a family's own configuration class has, because files leave out what equals them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
Fields = dict[str, Any]


def like_llama(c: Config, *, tied: bool = False, bias: bool = False, **more: Any) -> Fields:
    """Gated MLP, RMSNorm, rotary positions, grouped queries."""
    heads = c["num_attention_heads"]
    return {
        "layers": c["num_hidden_layers"],
        "hidden": c["hidden_size"],
        "heads": heads,
        "kv_heads": c.get("num_key_value_heads") or heads,
        "head_dim": c.get("head_dim") or c["hidden_size"] // heads,
        "ffn": c["intermediate_size"],
        "vocab": c["vocab_size"],
        "tied_embeddings": bool(c.get("tie_word_embeddings", tied)),
        "attention_bias": bool(c.get("attention_bias", bias)),
        "output_bias": bool(c.get("attention_bias", False)),
        "mlp_bias": bool(c.get("mlp_bias", False)),
        **_window(c),
        **more,
    }


def sequence_of(c: Config) -> int:
    """The longest sequence that a config states, in tokens; 0 if it states none."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length"):
        value = c.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def qwen(c: Config) -> Fields:
    """Qwen 1: the stated width is of gate and up product together."""
    return {**like_llama(c), "ffn": c["intermediate_size"] // 2, "attention_bias": True, "output_bias": False}


def qwen2(c: Config) -> Fields:
    """Qwen2 and Qwen2.5: biases on queries, keys and values only."""
    return {**like_llama(c), "attention_bias": True, "output_bias": False, **_late_windows(c)}


def qwen3(c: Config) -> Fields:
    """Qwen3: norms on queries and keys, heads of 128 unless stated."""
    return like_llama({"head_dim": 128, **c}, query_key_norm=True, **_late_windows(c))


def smollm3(c: Config) -> Fields:
    """SmolLM3: tied embeddings, windows only where they are switched on."""
    return like_llama({"use_sliding_window": False, **c}, tied=True)


def cohere(c: Config) -> Fields:
    """Parallel attention and MLP behind one norm, tied embeddings."""
    return like_llama(c, tied=True, norms_per_layer=1, query_key_norm=bool(c.get("use_qk_norm", False)))


def gemma(c: Config) -> Fields:
    """Gemma: tied embeddings, heads of 256."""
    return like_llama({"head_dim": 256, **c}, tied=True)


def gemma2(c: Config) -> Fields:
    """Gemma 2: four norms a layer, every other layer windowed."""
    share: Fields = {} if c.get("layer_types") else {"window_share": 0.5}
    return like_llama({"head_dim": 256, "sliding_window": 4096, **c}, tied=True, norms_per_layer=4, **share)


def gemma3(c: Config) -> Fields:
    """Gemma 3: four norms a layer, five of six layers windowed."""
    plain = {
        "head_dim": 256,
        "sliding_window_pattern": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        **c,
    }
    return like_llama(plain, tied=True, norms_per_layer=4, query_key_norm=True)


def gpt2(c: Config) -> Fields:
    """GPT-2: learned positions, biases everywhere."""
    hidden = c["n_embd"]
    fields = _shape(c["n_layer"], hidden, c["n_head"], c.get("n_inner") or 4 * hidden, c)
    return fields | _plain(True) | {"learned_positions": c["n_positions"]}


def gpt_bigcode(c: Config) -> Fields:
    """StarCoder: GPT-2 with one key-value head."""
    fields = gpt2(c)
    return fields | {"kv_heads": 1 if c.get("multi_query", True) else fields["heads"]}


def gpt_neox(c: Config) -> Fields:
    """GPT-NeoX and Pythia: plain MLP, biases everywhere, untied embeddings."""
    bias = bool(c.get("attention_bias", True))
    return like_llama(c) | _plain(True) | {"attention_bias": bias, "output_bias": bias}


def phi(c: Config) -> Fields:
    """Phi-1.5 and Phi-2: attention and MLP share one norm."""
    return like_llama(c) | _plain(True) | {"norms_per_layer": 1}


def falcon(c: Config) -> Fields:
    """Falcon, in its old and its new layout."""
    hidden, heads = c["hidden_size"], c.get("num_attention_heads") or c["n_head"]
    layers = c.get("num_hidden_layers") or c["n_layer"]
    new = bool(c.get("new_decoder_architecture", False))
    kv_heads = (c.get("num_kv_heads") or heads) if new else 1 if c.get("multi_query", True) else heads
    norms = 2 if new or not c.get("parallel_attn", True) else 1
    fields = _shape(layers, hidden, heads, c.get("ffn_hidden_size") or 4 * hidden, c)
    biases = _plain(bool(c.get("bias", False))) | {"norm_bias": True}
    return fields | biases | {"kv_heads": kv_heads, "norms_per_layer": norms}


def mpt(c: Config) -> Fields:
    """MPT: tied embeddings; learned positions unless it has ALiBi."""
    hidden, heads = c["d_model"], c["n_heads"]
    attention: Config = c.get("attn_config") or {}
    rotary = bool(attention.get("alibi")) or bool(attention.get("rope"))
    fields = _shape(c["n_layers"], hidden, heads, c.get("expansion_ratio", 4) * hidden, c)
    positions = 0 if rotary else c.get("max_seq_len", 0)
    own = {"kv_heads": attention.get("kv_n_heads") or heads, "learned_positions": positions}
    return fields | _plain(not c.get("no_bias", False)) | own


def bloom(c: Config) -> Fields:
    """BLOOM: ALiBi, biases everywhere, tied embeddings."""
    hidden = c.get("hidden_size") or c["n_embed"]
    heads = c.get("n_head") or c["num_attention_heads"]
    layers = c.get("n_layer") or c["num_hidden_layers"]
    return _shape(layers, hidden, heads, 4 * hidden, c) | _plain(True)


def opt(c: Config) -> Fields:
    """OPT: learned positions with two spare rows."""
    fields = like_llama({**c, "intermediate_size": c["ffn_dim"]}, tied=True) | _plain(True)
    return fields | {"learned_positions": c["max_position_embeddings"] + 2}


def biogpt(c: Config) -> Fields:
    """BioGPT: OPT's layers under BERT's names."""
    return opt({**c, "ffn_dim": c["intermediate_size"]})


def olmo(c: Config) -> Fields:
    """OLMo 1: norms without parameters."""
    return like_llama(c, norms_per_layer=0)


def starcoder2(c: Config) -> Fields:
    """StarCoder2: plain MLP with biases."""
    return like_llama(c, tied=True) | _plain(bool(c.get("use_bias", True))) | {"norm_bias": True}


def nemotron(c: Config) -> Fields:
    """Nemotron-4: squared ReLU, so two matrices."""
    return like_llama(c) | {"mlp_matrices": 2, "norm_bias": True}


def _late_windows(c: Config) -> Fields:
    """Qwen states a window that it does not use; where it is switched on, the layers from one number on have it."""
    if not c.get("use_sliding_window"):
        return {"window": 0, "window_share": 0.0}
    if c.get("layer_types"):
        return {}
    layers = c["num_hidden_layers"]
    return {"window_share": max(0, layers - c.get("max_window_layers", 28)) / layers}


def _window(c: Config) -> Fields:
    window = c.get("sliding_window")
    if not window or c.get("use_sliding_window") is False:
        return {}
    types = c.get("layer_types")
    if types:
        return {"window": window, "window_share": sum(t == "sliding_attention" for t in types) / len(types)}
    pattern = c.get("sliding_window_pattern") or c.get("_sliding_window_pattern")
    return {"window": window, "window_share": 1 - 1 / pattern if pattern else 1.0}


def _shape(layers: int, hidden: int, heads: int, ffn: int, c: Config) -> Fields:
    """A model whose heads divide its width; tied embeddings unless `c` says otherwise."""
    return {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "ffn": ffn,
        "vocab": c["vocab_size"],
        "tied_embeddings": bool(c.get("tie_word_embeddings", True)),
    }


def _plain(bias: bool) -> Fields:
    """An MLP of two matrices, and whether everything has biases."""
    return {"mlp_matrices": 2, "attention_bias": bias, "output_bias": bias, "mlp_bias": bias, "norm_bias": bias}
