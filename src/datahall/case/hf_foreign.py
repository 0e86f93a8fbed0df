"""Which models of config.json files are refused: those whose counts follow other formulas than a decoder's here.

They are told by the fields that they state, by the kinds of their layers, or by name where their files do not say it.
What passes is counted; how is in `hf_families`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from datahall.base.errors import CaseError

_ENCODERS = (
    "bert", "roberta", "electra", "deberta", "albert", "mpnet", "longformer", "big_bird", "nomic", "esm",
    "clip", "siglip", "layoutlm", "xlm-roberta", "encoder", "t5",
)  # fmt: skip
_FIELDS = (
    # encoders and what reads or speaks sound
    "is_encoder_decoder", "add_cross_attention", "d_kv", "type_vocab_size", "type_vocab_sizes", "num_codebooks",
    "blank_token_id",
    # state-space, recurrent, convolutional and linear layers
    "ssm_cfg", "mamba_num_heads", "mamba_d_state", "state_size", "hybrid_override_pattern", "linear_num_value_heads",
    "lru_width", "conv_L_cache", "linear_attn_config",
    # attention that chooses its keys
    "index_topk", "index_n_heads", "index_head_dim",
    # layers that differ in more than their window, several residual streams, embeddings in every layer
    "per_layer_config", "num_attention_heads_per_layer", "hc_mult", "altup_num_inputs", "hidden_size_per_layer_input",
    "H_cycles",
)  # fmt: skip
_ATTENTION = {
    "attention", "full_attention", "sliding_attention", "chunked_attention", "global_attention", "local_attention",
}  # fmt: skip
_NARROW = ("word_embed_proj_dim", "embedding_size", "embedding_rank")
_ROTARY = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_emb_base", "rotary_pct", "rotary_dim")
_NAMED = {
    "afmoe": "its attention has a gate as wide as its heads",
    "beam": "its attention has a gate as wide as its heads",
    "doge": "its experts are looked up, and its attention is masked by what it reads",
    "jetmoe": "its attention heads are experts",
    "laguna": "its attention has a gate",
    "mimo_v2_flash": "its values are narrower than its keys, and its windowed layers have heads of their own",
    "modernbert-decoder": "its head has a layer of its own",
    "muse_glimmer_text": "its attention has a gate as wide as its heads",
    "openai_privacy_filter": "it classifies tokens that it sees from both sides",
    "step3p5": "its attention has a gate",
}


def refuse_foreign(config: Mapping[str, Any], kind: str, where: str, *, known: bool) -> None:
    """CaseError for what is no decoder of attention and MLP layers.  `known`: a reader of its own takes its `kind`."""
    stated = [key for key in _FIELDS if config.get(key)] + _layers(config) + _encoder(config, kind)
    if not known:
        stated += _without_positions(config)
    if stated:
        raise CaseError(
            f'architecture "{kind}" is not a decoder of attention and MLP layers (it states {", ".join(stated)}).',
            where=where,
            hint="Encoders, encoder-decoders, state-space, linear-attention and sparse-attention models, and layers "
            "that differ from each other, are not counted yet.",
        )
    reason = _NAMED.get(kind) or _narrow(config)
    if reason:
        raise CaseError(
            f'architecture "{kind}" is not counted: {reason}.',
            where=where,
            hint="State a shape that is near enough inline in the case.",
        )


def _narrow(config: Mapping[str, Any]) -> str:
    """What says that embeddings are of another width than layers, with products between (OPT-350m); "" if nothing."""
    width = config.get("hidden_size")
    found = next((key for key in _NARROW if config.get(key, width) != width), "")
    return f"its embeddings are not as wide as its layers ({found} {config[found]})" if found else ""


def _layers(config: Mapping[str, Any]) -> list[str]:
    """Kinds of layers that are no attention over all tokens, a window or a chunk."""
    stated: Any = config.get("layer_types") or config.get("layers_block_type") or config.get("block_types") or []
    kinds = {str(entry) for entry in (cast(list[Any], stated) if isinstance(stated, list) else [stated])}
    mixed: Any = config.get("attn_type_list")
    linear = isinstance(mixed, list) and 0 in mixed  # MiniMax: 0 is a layer of linear attention
    group: Any = config.get("layer_group_size")  # Ring-linear: only the last layer of a group attends
    grouped = isinstance(group, int) and group > 1
    found = (("attn_type_list", linear), ("layer_group_size", grouped))
    return sorted(kinds - _ATTENTION) + [key for key, has in found if has]


def _encoder(config: Mapping[str, Any], kind: str) -> list[str]:
    """What says that a model has no causal mask and no head over the vocabulary for each token."""
    stated: Any = config.get("architectures")
    classes = [str(name) for name in cast(list[Any], stated)] if isinstance(stated, list) else []
    masked = [name for name in classes if name.endswith("ForMaskedLM")]
    named = any(kind.startswith(word) or kind.endswith(word) for word in _ENCODERS)
    return masked or ([f"model_type {kind}"] if named else [])


def _without_positions(config: Mapping[str, Any]) -> list[str]:
    """LayerNorms without rotary positions: an encoder's layers, or a decoder whose MLP and positions no field tells."""
    norm = next((key for key in ("layer_norm_eps", "layer_norm_epsilon") if config.get(key)), "")
    return [f"{norm}, and no rotary positions"] if norm and not any(key in config for key in _ROTARY) else []
