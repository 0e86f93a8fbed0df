"""config.json files as the installed transformers saves them, against the parameters of the models that it builds."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from datahall.base.errors import CaseError
from datahall.case.hf import from_config, read_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "intermediate_size": 704,
    "moe_intermediate_size": 96,
    "vocab_size": 1000,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
}
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"num_experts": 8, "shared_expert_intermediate_size": 96},
    "qwen3_moe": {"num_experts": 8},
    "mixtral": {"num_local_experts": 8},
    "olmoe": {"num_experts": 8},
    "gpt_oss": {"num_local_experts": 8},
    "deepseek_v2": {"n_routed_experts": 8, "first_k_dense_replace": 1},
    "deepseek_v3": {"n_routed_experts": 8, "first_k_dense_replace": 2},
    "glm4_moe": {"n_routed_experts": 8, "first_k_dense_replace": 1},
    "llama4_text": {"num_local_experts": 8, "intermediate_size_mlp": 1408, "interleave_moe_layer_step": 2},
}


# Other names for the same, and sizes that families insist on; a family is given those that it has.
ALSO: dict[str, Any] = {
    **{"n_embd": 256, "n_layer": 6, "n_head": 8, "n_inner": 704, "d_model": 256, "n_layers": 6, "n_heads": 8},
    **{"num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "shared_expert_intermediate_size": 96},
    **{"ffn_dim": 704, "max_position_embeddings": 128, "n_positions": 128, "n_group": 1, "topk_group": 1},
    **{"shared_intermediate_size": 96},
}


def built_parameters(config: Any) -> int:
    """What transformers' own model of `config` holds, built without memory."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_are_read_as_transformers_saves_them(kind: str, tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(kind, **SMALL, **MIXTURES[kind])
    config.save_pretrained(tmp_path)
    found = read_config(tmp_path)
    assert found.shape.parameters() == pytest.approx(built_parameters(config), rel=0.001)
    assert (found.shape.experts, found.shape.experts_per_token) == (8, 2)


@pytest.mark.parametrize(
    "kind", ["gpt_neox", "stablelm", "phi", "nemotron", "glm", "glm4", "glm4_moe", "persimmon", "llama", "qwen3"]
)
def test_heads_are_rotary_as_far_as_transformers_takes_them_to_be(kind: str) -> None:
    config = small(kind)
    saved = json.loads(config.to_json_string())
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    assert from_config(saved).shape.rotary_share == share
    del saved["rope_parameters"]  # as a file that leaves out what equals the family's default
    assert from_config(saved | {"rope_theta": 10000.0}).shape.rotary_share == share


def small(kind: str) -> Any:
    """A configuration of `kind` with sizes of our own, or None where these do not suit it."""
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    has = {*inspect.signature(known.__init__).parameters, *known.attribute_map}
    try:
        return known(**{name: size for name, size in (SMALL | ALSO).items() if name in has})
    except Exception:  # each family has checks of its own
        return None


def read_and_built(kind: str) -> tuple[int, int] | None:
    """Parameters as they are read and as they are built; None where either refuses, or where parts are said to lack."""
    config = small(kind)
    if config is None:
        return None
    try:
        found = from_config(json.loads(config.to_json_string()), name=kind)
    except CaseError:
        return None
    if "is not counted" in found.note:
        return None
    try:
        return found.shape.parameters(), built_parameters(config)
    except Exception:  # some of its own models cannot be built from what their configurations default to
        return None


def test_what_the_installed_transformers_knows_is_counted_right_or_refused() -> None:
    """So that no new release of it brings a family that is counted wrong in silence."""
    names = transformers.models.auto.modeling_auto
    kinds = {**names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **names.MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    compared = {kind: both for kind in kinds if (both := read_and_built(kind))}
    wrong = {
        kind: f"{read / built - 1:+.2%}" for kind, (read, built) in compared.items() if abs(read / built - 1) > 0.005
    }
    assert wrong == {}
    assert len(compared) > 70
