"""config.json files as the installed transformers saves them, against the parameters of the models that it builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datahall.case.hf import read_config

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
