"""A tiny Llama-like checkpoint with random weights and a tokenizer of bytes, as Hugging Face lays one out."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from datahall.case.hf import read_config

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64,
    "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 256,
    "max_position_embeddings": 512, "rope_theta": 100_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
}  # fmt: skip


def write_checkpoint(folder):
    """Write it into `folder`; gives back its shape."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    chance = torch.Generator().manual_seed(0)
    widths = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64)}
    tensors = {"model.embed_tokens.weight": (256, 64), "model.norm.weight": (64,)}
    for layer in range(2):
        place = f"model.layers.{layer}"
        tensors |= {f"{place}.self_attn.{name}.weight": size for name, size in widths.items()}
        tensors |= {f"{place}.mlp.{name}_proj.weight": (96, 64) for name in ("gate", "up")}
        tensors[f"{place}.mlp.down_proj.weight"] = (64, 96)
        tensors |= {f"{place}.{name}.weight": (64,) for name in ("input_layernorm", "post_attention_layernorm")}
    made = {name: torch.randn(size, generator=chance) * 0.05 + (len(size) == 1) for name, size in tensors.items()}
    save_file(made, folder / "model.safetensors")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return read_config(folder / "config.json").shape
