"""What a model of config.json has beside its sizes: traits that change no count and no forecast.

Carried for exports, whose engines are told them or say that they differ.  `WORDS` says what each means.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from datahall.case.hf_dense import Config, Fields

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "geglu": "MLPs gated by GELU (SiLU without a word)",
        "relu2-glu": "MLPs gated by squared ReLU",
        "relu": "plain MLPs with ReLU (GELU without a word)",
        "relu2": "plain MLPs with squared ReLU",
        "xielu": "plain MLPs with xIELU",
        "layernorm": "LayerNorm beside gated MLPs (RMSNorm without a word)",
        "layernorm-1p": "LayerNorm whose weights are stored less one",
        "rmsnorm": "RMSNorm beside plain MLPs (LayerNorm without a word)",
        "post-norm": "norms behind attention and MLP, none before",
        "wide-qk-norm": "norms over all heads' queries and over all heads' keys",
        "qk-l2-norm": "norms without weights on queries and keys",
        "embedding-norm": "a norm behind the embedding",
        "parallel": "attention and MLP side by side",
        "alibi": "ALiBi in place of rotary positions",
        "relative": "learned relative positions",
        "no-rope-layers": "some layers without rotary positions",
        "softcap": "scores or logits that are capped",
        "sinks": "a learned sink in each head's softmax, gates that are clamped",
        "interleaved": "dense layers between the mixtures",
        "scaled": "embeddings, residuals or logits scaled by constants",
    }
)

_PARALLEL = ("phi", "cohere", "cohere2", "gptj", "codegen")
_POST_NORM = ("olmo2", "olmo3", "flex_olmo", "exaone4", "exaone_moe")
_WIDE_NORMS = ("olmo2", "olmo3", "olmoe", "flex_olmo", "minimax_m2")
_SCALES = (
    "embedding_multiplier", "residual_multiplier", "logits_scaling", "scale_emb", "scale_depth", "logit_scale",
)  # fmt: skip
_GATES = {"relu2": "relu2-glu"}
_PLAIN = ("relu", "relu2", "xielu")


def traits_of(c: Config, kind: str, fields: Fields) -> str:
    """The traits of a config of family `kind`, read to `fields`: words of `WORDS` with spaces between."""
    found = {
        _activation(c, kind, gated=fields.get("mlp_matrices", 3) == 3),
        _norms(c, kind, gated=fields.get("mlp_matrices", 3) == 3),
        *_positions(c, kind),
        "post-norm" if kind in _POST_NORM else "",
        "wide-qk-norm" if kind in _WIDE_NORMS else "",
        "qk-l2-norm" if kind == "llama4_text" and c.get("use_qk_norm", True) else "",
        "embedding-norm" if kind == "bloom" else "",
        "parallel" if _side_by_side(c, kind) else "",
        "softcap" if c.get("attn_logit_softcapping") or c.get("final_logit_softcapping") or kind == "gemma2" else "",
        "sinks" if kind == "gpt_oss" else "",
        "interleaved" if _interleaved(c, fields) else "",
        "scaled" if kind.startswith("gemma") or any(c.get(key, 1) != 1 for key in _SCALES) else "",
    }
    return " ".join(word for word in WORDS if word in found)


def _activation(c: Config, kind: str, *, gated: bool) -> str:
    stated = c.get("hidden_activation") or c.get("hidden_act") or c.get("activation_function") or ""
    name = str(stated or {"opt": "relu", "nemotron": "relu2"}.get(kind, "gelu" if kind.startswith("gemma") else ""))
    if not gated:
        return name if name in _PLAIN else ""
    return "geglu" if name.startswith("gelu") else _GATES.get(name, "")


def _norms(c: Config, kind: str, *, gated: bool) -> str:
    if kind == "nemotron":
        return "layernorm-1p"
    layer = c.get("layer_norm_eps") or c.get("layer_norm_epsilon") or kind in ("cohere", "cohere2", "olmo")
    root = c.get("rms_norm_eps")
    return ("layernorm" if layer and not root else "") if gated else ("rmsnorm" if root else "")


def _positions(c: Config, kind: str) -> list[str]:
    attention: Any = c.get("attn_config") or {}
    skipped = c.get("no_rope_layers")  # 1 where there are rotary positions
    some = 0 in skipped if isinstance(skipped, list) else kind in ("llama4_text", "smollm3", "cohere2")
    biased = kind == "bloom" or c.get("alibi") or attention.get("alibi")
    return [word for word, has in (("alibi", biased), ("no-rope-layers", some)) if has]


def _side_by_side(c: Config, kind: str) -> bool:
    if kind in ("falcon", "RefinedWeb", "RefinedWebModel"):
        return bool(c.get("new_decoder_architecture") or c.get("parallel_attn", True))
    return kind in _PARALLEL or bool(c.get("use_parallel_residual", kind == "gpt_neox"))


def _interleaved(c: Config, fields: Fields) -> bool:
    """Whether a mixture's dense layers are others than its first ones."""
    dense = fields.get("dense_layers", 0)
    if not dense:
        return False
    listed: list[Any] = c.get("mlp_layer_types") or []
    if listed:
        return any(word == "dense" for word in listed[dense:])
    step = c.get("interleave_moe_layer_step") or c.get("decoder_sparse_step") or 1
    chosen = c.get("mlp_only_layers") or ()
    return step > 1 or bool(c.get("moe_layers")) or any(layer >= dense for layer in chosen)
