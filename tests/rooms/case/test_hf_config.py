"""config.json files of well-known models against the parameter counts that their makers published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datahall.base.errors import CaseError
from datahall.case import from_model_and_site
from datahall.case.hf import from_config, read_config
from datahall.case.hf_traits import WORDS
from datahall.case.named_model import shape_of
from datahall.case.saved import case_from_json
from datahall.catalog import models


def config(
    kind: str, hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        **more,
    }


MLA = {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
V3 = {"n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048}
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"] * 12, "sliding_window": 128}
GEMMA3 = config("gemma3_text", 1152, 26, 4, 1, 6912, 262144, head_dim=256, sliding_window=512, sliding_window_pattern=6)

# name in the catalogue, config, published count
KNOWN: list[tuple[str, dict[str, Any], float]] = [
    ("llama-2-7b", config("llama", 4096, 32, 32, 32, 11008, 32000), 6738415616),
    ("llama-3.1-8b", config("llama", 4096, 32, 32, 8, 14336, 128256, max_position_embeddings=131072), 8030261248),
    ("llama-3.2-1b", config("llama", 2048, 16, 32, 8, 8192, 128256, head_dim=64, tie_word_embeddings=True), 1235814400),
    ("llama-3.1-405b", config("llama", 16384, 126, 128, 8, 53248, 128256), 405853388800),
    ("mistral-7b", config("mistral", 4096, 32, 32, 8, 14336, 32000, sliding_window=4096), 7241732096),
    (
        "mixtral-8x7b",
        config("mixtral", 4096, 32, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2),
        46702792704,
    ),
    (
        "qwen2.5-7b",
        config("qwen2", 3584, 28, 28, 4, 18944, 152064, sliding_window=131072, use_sliding_window=False),
        7615616512,
    ),
    ("qwen3-0.6b", config("qwen3", 1024, 28, 16, 8, 3072, 151936, head_dim=128, tie_word_embeddings=True), 596049920),
    (
        "qwen3-30b-a3b",
        config(
            "qwen3_moe",
            2048,
            48,
            32,
            4,
            6144,
            151936,
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
        ),
        30.53e9,
    ),
    (
        "deepseek-v3",
        config("deepseek_v3", 7168, 61, 128, 128, 18432, 129280, first_k_dense_replace=3, **MLA, **V3),
        671.0e9,
    ),
    ("gemma-7b", config("gemma", 3072, 28, 16, 16, 24576, 256000, head_dim=256), 8537680896),
    ("gemma-2-9b", config("gemma2", 3584, 42, 16, 8, 14336, 256000, head_dim=256, sliding_window=4096), 9241705984),
    ("gemma-3-1b", GEMMA3, 999885952),
    (
        "gpt2",
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
        124439808,
    ),
    (
        "gpt-neox-20b",
        {k: v for k, v in config("gpt_neox", 6144, 44, 64, 0, 24576, 50432).items() if k != "num_key_value_heads"},
        20.55e9,
    ),
    (
        "falcon-7b",
        {
            "model_type": "falcon",
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "vocab_size": 65024,
            "multi_query": True,
            "parallel_attn": True,
            "bias": False,
        },
        6921720704,
    ),
    (
        "falcon-40b",
        {
            "model_type": "falcon",
            "hidden_size": 8192,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
            "vocab_size": 65024,
            "bias": False,
        },
        41303293952,
    ),
    ("phi-3-mini", config("phi3", 3072, 32, 32, 32, 8192, 32064), 3821079552),
    ("phi-2", config("phi", 2560, 32, 32, 32, 10240, 51200), 2779683840),
    ("olmo-7b", config("olmo", 4096, 32, 32, 32, 11008, 50304), 6.89e9),
    (
        "gpt-oss-20b",
        config(
            "gpt_oss",
            2880,
            24,
            64,
            8,
            2880,
            201088,
            head_dim=64,
            num_local_experts=32,
            num_experts_per_tok=4,
            **WINDOWED,
        ),
        20.91e9,
    ),
    (
        "mpt-30b",
        {
            "model_type": "mpt",
            "d_model": 7168,
            "n_layers": 48,
            "n_heads": 56,
            "expansion_ratio": 4,
            "vocab_size": 50368,
            "max_seq_len": 2048,
            "no_bias": True,
        },
        29.97e9,
    ),
    (
        "bloom-176b",
        {"model_type": "bloom", "n_embed": 14336, "n_layer": 70, "num_attention_heads": 112, "vocab_size": 250880},
        176.25e9,
    ),
    ("nemotron-4-15b", config("nemotron", 6144, 32, 48, 8, 24576, 256000), 15.6e9),
]


@pytest.mark.parametrize(("name", "data", "published"), KNOWN, ids=[name for name, _, _ in KNOWN])
def test_counts_match_the_published_ones(name: str, data: dict[str, Any], published: float) -> None:
    found = from_config(data, name=name)
    assert found.shape.parameters() == pytest.approx(published, rel=0.005)
    assert found.shape.parameters() == pytest.approx(shape_of(name).parameters(), rel=0.002)
    assert found.note == ""


def test_an_unknown_mixture_is_never_read_as_dense() -> None:
    mixture = config("new_moe", 2048, 16, 16, 16, 1024, 50304, num_experts=64, num_experts_per_tok=8)
    assert from_config(mixture).shape.parameters() == shape_of("olmoe-1b-7b").parameters()
    with pytest.raises(CaseError, match="num_experts, because expert_capacity is there"):
        from_config(config("odd_moe", 64, 4, 4, 4, 128, 100, expert_capacity=4))
    latent = config("new_mla", 7168, 61, 128, 128, 18432, 129280, first_k_dense_replace=3, **MLA, **V3)
    assert from_config(latent).shape.parameters() == pytest.approx(671.0e9, rel=0.003)


def test_nested_text_config_is_read() -> None:
    text = {key: value for key, value in GEMMA3.items() if key != "vocab_size"}
    found = from_config(
        {"model_type": "gemma3", "vocab_size": 262144, "text_config": text, "vision_config": {"hidden_size": 9}}
    )
    assert found.shape.parameters() == 999885952
    assert found.sequence == 131072  # released files leave it out, since it is the family's default


@pytest.mark.parametrize("other", ["vision_config", "audio_config"])
def test_what_is_not_counted_beside_the_text_model_is_said(other: str) -> None:
    text = config("llama", 64, 4, 4, 4, 128, 100)
    said = from_config({"model_type": "llava", "text_config": text, other: {"hidden_size": 9}}).note
    assert f"its {other} describes is not counted" in said
    assert not from_config({"model_type": "llava", "text_config": text, other: None}).note
    both = from_config({"text_config": {**text, "model_type": "brand_new"}, other: {"hidden_size": 9}}).note
    assert "not counted" in both
    assert "brand_new" in both


def test_an_unknown_architecture_is_inferred_or_refused() -> None:
    found = from_config(config("brand_new", 4096, 32, 32, 8, 14336, 128256))
    assert found.shape.parameters() == 8030261248
    assert "brand_new" in found.note
    with pytest.raises(CaseError, match=r'"brand_new" is not known, and field "intermediate_size"'):
        from_config(
            {key: value for key, value in config("brand_new", 8, 2, 2, 2, 8, 8).items() if key != "intermediate_size"}
        )


@pytest.mark.parametrize(
    "more",
    [{"is_encoder_decoder": True}, {"hybrid_override_pattern": "M-M*"}, {"layer_types": ["linear_attention"] * 4}],
)
def test_other_kinds_of_model_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(CaseError, match="not a decoder of attention"):
        from_config(config("other", 64, 4, 4, 4, 128, 100, **more))


@pytest.mark.parametrize("broken", [{"hidden_size": "wide"}, {"num_hidden_layers": 0}, {"num_key_value_heads": 3}])
def test_values_that_cannot_be_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(CaseError):
        from_config(config("llama", 64, 4, 4, 4, 128, 100) | broken)


def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(KNOWN[1][1]))
    found = read_config(folder)
    assert (found.shape.name, found.sequence) == ("my-model", 131072)
    (folder / "config.json").write_text("{")
    with pytest.raises(CaseError, match="not JSON"):
        read_config(folder)
    with pytest.raises(CaseError, match="cannot be read"):
        read_config(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "found",
    [
        config("bert", 768, 12, 12, 12, 3072, 30522),
        config("xlm-roberta", 768, 12, 12, 12, 3072, 250002),
        config("other", 768, 12, 12, 12, 3072, 30522, architectures=["OtherForMaskedLM"]),
        {"model_type": "clip", "text_config": config("clip_text_model", 512, 12, 8, 8, 2048, 49408)},
        config("minimax_text_01", 6144, 80, 64, 8, 9216, 200064, attn_type_list=[0, 0, 1]),
        config("recurrent_gemma", 2560, 26, 10, 1, 15360, 256000, block_types=["recurrent", "recurrent", "attention"]),
        config("lfm2", 2048, 16, 32, 8, 12288, 65536, conv_L_cache=3),
        config("deepseek_v32", 7168, 61, 128, 128, 18432, 129280, **MLA, **V3, index_topk=2048),
        config("new_sparse", 64, 4, 4, 4, 128, 100, layer_types=["indexed_attention"] * 4),
        config("gemma4_text", 2560, 42, 8, 2, 10240, 262144, hidden_size_per_layer_input=256),
        config("roformer", 768, 12, 12, 12, 3072, 50000, type_vocab_size=2),
        config("new_encoder_of_sound", 768, 12, 12, 12, 3072, 32, layer_norm_eps=1e-5),
        config("gpt2_like", 64, 4, 4, 4, 128, 100, add_cross_attention=True),
        config("kimi_linear", 2304, 27, 32, 32, 9216, 163840, **MLA, linear_attn_config={"kda_layers": [1, 2, 3]}),
        config("bailing_moe_linear", 2048, 20, 16, 4, 5120, 157184, layer_group_size=5),
    ],
)
def test_what_is_no_decoder_of_attention_layers_is_refused_and_not_read_as_one(found: dict[str, Any]) -> None:
    with pytest.raises(CaseError, match="is not a decoder"):
        from_config(found)


QWEN2_MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32)
OPT = {
    **{"model_type": "opt", "num_hidden_layers": 24, "num_attention_heads": 16, "hidden_size": 1024, "ffn_dim": 4096},
    **{"vocab_size": 50272, "max_position_embeddings": 2048},
}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (OPT | {"word_embed_proj_dim": 512}, "its embeddings are not as wide as its layers"),  # OPT-350m
        (config("doge", 1024, 32, 8, 4, 2048, 32768, num_experts=16384, num_experts_per_tok=64), "looked up"),
        (config("afmoe", 2048, 32, 32, 4, 6144, 200192, num_experts=128, num_experts_per_tok=8), "has a gate"),
        (config("new_moe", 64, 4, 4, 4, 128, 100, num_experts=4, num_experts_per_tok=2, expert_dim=9), "expert_dim"),
    ],
)
def test_what_no_shape_here_says_is_refused_with_the_reason(found: dict[str, Any], why: str) -> None:
    with pytest.raises(CaseError, match=why):
        from_config(found)
    assert from_config(OPT | {"word_embed_proj_dim": 1024}).shape.tied_embeddings


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"])
def test_a_model_that_states_experts_is_never_read_as_having_none(key: str) -> None:
    kind, dense = ("deepseek_v3", MLA) if key in ("num_experts", "num_local_experts") else ("llama", {})
    plain = config(kind, 2304, 27, 32, 32, 9216, 163840, **dense)
    with pytest.raises(CaseError, match=f"{key} is 256, but .* no experts"):
        from_config(plain | {key: 256, "num_experts_per_token": 8})
    assert from_config(plain | {key: 1}).shape == from_config(plain | {key: 0}).shape == from_config(plain).shape


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "new_moe"])
@pytest.mark.parametrize("chosen", [0, 9])
def test_a_token_passes_through_one_expert_or_more_and_no_more_than_there_are(kind: str, chosen: int) -> None:
    mixture = config(kind, 64, 4, 4, 4, 128, 100, num_experts=8, moe_intermediate_size=32)
    with pytest.raises(CaseError, match=f"cannot pass through {chosen} of 8 experts"):
        from_config(mixture | {"num_experts_per_tok": chosen})
    assert from_config(mixture | {"num_experts_per_tok": 8}).shape.experts_per_token == 8


def test_layers_in_groups_of_one_all_attend() -> None:
    """Every so-manieth layer attends, and the others are linear."""
    assert from_config(config("new", 64, 4, 4, 4, 128, 100, layer_group_size=1)).shape.layers == 4


def test_dense_layers_of_unknown_mixtures_are_counted_where_they_are_listed() -> None:
    mixture = config("new_moe", 64, 4, 4, 4, 128, 100, num_experts=4, num_experts_per_tok=2)
    for listed in ({"mlp_layer_types": ["dense"] + ["sparse"] * 3}, {"num_dense_layers": 1}, {"mlp_only_layers": [0]}):
        assert from_config(mixture | listed).shape.dense_layers == 1
    for width in ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size"):
        shape = from_config(mixture | {width: 32}).shape
        assert (shape.shared_experts, shape.shared_ffn) == (1, 32)


def test_a_mixture_of_fewer_layers_than_its_dense_ones_has_no_more_dense_ones() -> None:
    for stated in (MLA | V3 | {"first_k_dense_replace": 3}, QWEN2_MOE | {"mlp_only_layers": [0, 1, 2]}):
        kind = "deepseek_v3" if "kv_lora_rank" in stated else "qwen2_moe"
        assert from_config(config(kind, 64, 2, 4, 4, 128, 100, **stated)).shape.dense_layers == 2


@pytest.mark.parametrize(
    ("found", "published"),
    [
        (config("qwen", 4096, 32, 32, 32, 22016, 151936), 7721324544),  # its width is of two products
        (config("persimmon", 4096, 36, 64, 64, 16384, 262144, hidden_act="relu2"), 9.4e9),
        (config("apertus", 4096, 32, 32, 8, 21504, 131072, hidden_act="xielu"), 8.05e9),
        (config("bitnet", 2560, 30, 20, 5, 6912, 128256, hidden_act="relu2", tie_word_embeddings=True), 2412820480),
        (config("biogpt", 1024, 24, 16, 16, 4096, 42384, max_position_embeddings=1024), 346763264),
    ],
)
def test_mlps_are_read_as_wide_as_they_are(found: dict[str, Any], published: float) -> None:
    assert from_config(found).shape.parameters() == pytest.approx(published, rel=0.002)


LLAMA4 = config(
    "llama4_text", 5120, 48, 40, 8, 8192, 202048, head_dim=128, num_local_experts=16, attention_chunk_size=8192
)


@pytest.mark.parametrize(
    ("found", "window", "share"),
    [
        (config("qwen2", 3584, 28, 28, 4, 18944, 152064, sliding_window=32768), 0, 0.0),  # off unless switched on
        (config("qwen3", 4096, 40, 32, 8, 12288, 151936, sliding_window=512, use_sliding_window=True), 512, 0.3),
        (config("smollm3", 2048, 36, 16, 4, 11008, 128256, sliding_window=512), 0, 0.0),
        (LLAMA4, 8192, 0.75),
        (LLAMA4 | {"no_rope_layers": [1, 0] * 24}, 8192, 0.5),
    ],
)
def test_layers_attend_as_far_as_the_family_says(found: dict[str, Any], window: int, share: float) -> None:
    shape = from_config(found).shape
    assert (shape.window, shape.window_share) == (window, pytest.approx(share))


def test_a_scout_of_the_catalogue_attends_as_its_configuration_says() -> None:
    named, read = shape_of("llama-4-scout"), from_config(LLAMA4).shape
    assert (named.window, named.window_share) == (read.window, read.window_share)


def test_a_family_whose_default_ties_the_head_is_read_so() -> None:
    found = from_config(config("smollm3", 2048, 36, 16, 4, 11008, 128256))
    assert found.shape.parameters() == pytest.approx(3.08e9, rel=0.005)


@pytest.mark.parametrize(
    ("more", "dense"),
    [({}, 0), ({"mlp_only_layers": [0, 3]}, 2), ({"decoder_sparse_step": 2, "mlp_only_layers": [0, 1]}, 13)],
)
def test_dense_layers_between_mixtures_are_counted(more: dict[str, Any], dense: int) -> None:
    mixture = {"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408}
    data = config("qwen2_moe", 2048, 24, 16, 16, 5632, 151936, shared_expert_intermediate_size=5632, **mixture, **more)
    assert from_config(data).shape.dense_layers == dense


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("stated", "base", "scaling"),
    [
        ({"rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "rope_type": "llama3"}}, 500000.0, "llama3 8"),
        ({"rope_parameters": {**LLAMA3, "rope_theta": 500000.0, "rope_type": "llama3"}}, 500000.0, "llama3 8"),
        ({"rope_theta": 1e6, "rope_scaling": None}, 1e6, ""),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6, ""),
        ({"rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40}}, 10000.0, "yarn 40"),
        ({"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "type": "llama3", "low_freq_factor": 2}}, 5e5, "llama3-like 8"),
        ({}, 0.0, ""),
        ({"rope_theta": 1e6, "rope_local_base_freq": 10000.0}, 0.0, ""),  # two of them
        ({"rope_theta": 1e6, "partial_rotary_factor": 0.5}, 1e6, ""),  # of half of each head
        ({"rotary_emb_base": 25000}, 25000.0, ""),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "default"}}}, 0.0, ""),
        ({"rope_theta": "large"}, 0.0, ""),
        ({"rope_theta": float("nan"), "rope_scaling": {"rope_type": "llama3", "factor": "much"}}, 0.0, ""),
    ],
)
def test_rotary_positions_are_read_where_one_base_says_all(stated: dict[str, Any], base: float, scaling: str) -> None:
    shape = from_config(config("llama", 4096, 32, 32, 8, 14336, 128256, **stated)).shape
    assert (shape.rotary_base, shape.rotary_scaling) == (base, scaling)


SEVERAL = {"full_attention": {"partial_rotary_factor": 0.25}, "sliding_attention": {"rope_type": "default"}}


@pytest.mark.parametrize(
    ("kind", "stated", "share"),
    [
        ("llama", {}, 1.0),
        ("phi3", {"partial_rotary_factor": 0.75}, 0.75),
        ("stablelm", {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}}, 0.25),
        ("minimax_m2", {"rope_theta": 5e6, "rotary_dim": 32, "head_dim": 64}, 0.5),
        ("gpt_neox", {"rotary_pct": 0.25, "rotary_emb_base": 10000}, 0.25),
        ("gpt_neox", {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}}, 1.0),
        *((kind, {"rope_theta": 10000.0}, 0.5) for kind in ("phi", "nemotron", "glm", "glm4", "persimmon")),
        ("stablelm", {"rope_theta": 10000.0}, 0.25),  # what its own configuration takes where a file says nothing
        ("gpt_neox", {"rope_theta": 10000.0}, 0.25),
        ("llama", {"rope_parameters": SEVERAL}, 0.0),  # layers differ
        ("llama", {"partial_rotary_factor": "half"}, 0.0),
        ("llama", {"rotary_dim": 64}, 0.0),  # more than the 32 that a head has
        ("deepseek_v3", {**MLA, **V3, "partial_rotary_factor": 0.5}, 1.0),  # of its own width for positions all
    ],
)
def test_how_much_of_each_head_is_rotary_is_read_in_either_layout(
    kind: str, stated: dict[str, Any], share: float
) -> None:
    assert from_config(config(kind, 256, 8, 8, 8, 1024, 1000, **stated)).shape.rotary_share == share


@pytest.mark.parametrize(
    ("kind", "more", "traits"),
    [
        ("llama", {"hidden_act": "silu", "rms_norm_eps": 1e-5}, ""),
        ("gemma", {}, "geglu scaled"),
        ("gemma2", {"hidden_activation": "gelu_pytorch_tanh"}, "geglu softcap scaled"),
        ("phi", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}, "parallel"),
        ("gpt_neox", {"hidden_act": "gelu"}, "parallel"),
        ("gpt_neox", {"use_parallel_residual": False}, ""),
        ("falcon", {"parallel_attn": False, "alibi": True}, "alibi"),
        ("falcon", {"new_decoder_architecture": True}, "parallel"),
        ("nemotron", {"hidden_act": "relu2"}, "relu2 layernorm-1p"),
        ("cohere2", {"logit_scale": 0.25}, "layernorm parallel no-rope-layers scaled"),
        ("olmo2", {"rms_norm_eps": 1e-6}, "post-norm wide-qk-norm"),
        ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}, "wide-qk-norm"),
        ("llama4_text", {"num_local_experts": 4}, "qk-l2-norm no-rope-layers"),
        ("llama4_text", {"num_local_experts": 4, "use_qk_norm": False}, "no-rope-layers"),
        ("bloom", {"n_head": 4, "n_layer": 4}, "embedding-norm alibi"),
        ("opt", {"ffn_dim": 256, "max_position_embeddings": 64}, "relu"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 0]}, "no-rope-layers"),
        ("granite", {"embedding_multiplier": 12.0, "residual_multiplier": 1.0}, "scaled"),
        ("apertus", {"hidden_act": "xielu", "rms_norm_eps": 1e-5, "rope_theta": 1e6}, "xielu rmsnorm"),
        ("bitnet", {"hidden_act": "relu2"}, "relu2-glu"),
        ("qwen2_moe", QWEN2_MOE | {"mlp_only_layers": [0]}, ""),
        ("qwen2_moe", QWEN2_MOE | {"mlp_only_layers": [3]}, "interleaved"),
        ("qwen2_moe", QWEN2_MOE | {"decoder_sparse_step": 2}, "interleaved"),
    ],
)
def test_what_changes_no_count_is_carried_for_exports(kind: str, more: dict[str, Any], traits: str) -> None:
    assert from_config(config(kind, 64, 4, 4, 4, 128, 100, **more)).shape.traits == traits


def test_the_catalogue_s_traits_are_words_that_mean_something() -> None:
    for name in models.names():
        assert set(shape_of(name).traits.split()) <= set(WORDS)


def test_rotary_positions_change_no_count_and_disown_no_plan() -> None:
    case = from_model_and_site("llama-3.1-8b", "8xA40")
    assert case.model.rotary_base == 500000
    older = replace(
        case, model=replace(case.model, rotary_base=0.0, rotary_scaling="", rotary_share=0.5, traits="parallel")
    )
    assert older.model == case.model
    assert older.hash() == case.hash()
    assert case_from_json(case.to_json()).model.rotary_scaling == "llama3 8"
