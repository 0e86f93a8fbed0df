"""Fine-tuning: our language model with the weights and the tokens of a Hugging Face checkpoint, `application.weights`.

Llama-like checkpoints (Llama, Mistral, SmolLM2, Qwen2 with its biases): config.json, model.safetensors, tokenizer.json.
It reads one file of weights, no index of many, and downloads nothing: `datahall weights` does that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datahall.base.errors import Refused, UsageError
from datahall.base.workload import Workload
from datahall.case.hf import read_config
from datahall.case.model import ModelShape
from datahall.case.question import Case
from datahall.workloads.language_model import LanguageModel, language_workload
from datahall.workloads.lora import add_adapters
from datahall.workloads.rotary import ROTARY_BASE
from datahall.workloads.text import cut, raw_text

FULL_LEARNING_RATE = 5e-5
LORA_LEARNING_RATE = 1e-3  # adapters start at zero and bear ten times the rate and more
_TOKENISED_BYTES = 2**20  # of the standard library: as much as a small run reads
_VALIDATED = 16  # held-out samples: a pretrained model takes its time
_PIECE_BYTES = 2**14
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PARTS = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
}


def build(case: Case) -> Workload:
    """The case's model, fully trained or with adapters.  UsageError where weights are missing or of another shape."""
    application = case.application
    folder = weights_folder(application.weights)
    torch.manual_seed(application.seed)
    model = load_model(folder, case.model)
    add_adapters(model, application)
    samples, held_out = cut(_tokens(folder, application.dataset), application.sequence)
    rate = LORA_LEARNING_RATE if application.method == "lora" else FULL_LEARNING_RATE

    def optimiser(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=True)

    return language_workload(case, model, samples, held_out, optimiser, _VALIDATED)


def weights_folder(weights: str) -> Path:
    """The folder that `application.weights` means: one that is there, or one that `datahall weights NAME` made."""
    for folder in (Path(weights).expanduser(), weights_home() / weights):
        if (folder / "model.safetensors").is_file():
            return folder
    raise UsageError(
        f"there are no weights {weights!r}: no folder with model.safetensors, config.json and tokenizer.json.",
        where="application.weights",
        hint="Name a folder of a Hugging Face checkpoint, or fetch small ones: `datahall weights smollm2-135m`.",
    )


def weights_home() -> Path:
    """Where `datahall weights` puts what it fetched: the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "datahall" / "weights"


def load_model(folder: Path, shape: ModelShape) -> LanguageModel:
    """Our language model with the checkpoint's weights.  UsageError unless they are of this shape."""
    told = read_config(folder / "config.json").shape
    if _dimensions(told) != _dimensions(shape):
        raise UsageError(
            f"the weights are of {told.name} with {told.layers} layers of {told.hidden}, and the case's model is "
            f"{shape.name} with {shape.layers} layers of {shape.hidden}, or they differ in another dimension.",
            where="application.weights",
            hint="Read the model from the same folder: model: {from: hf, path: .../config.json}.",
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stretched = config.get("rope_scaling") or told.rotary_scaling
    if stretched or told.rotary_share != 1.0 or config.get("hidden_act", "silu") != "silu":
        raise Refused(
            "rotary positions that are scaled or of parts of heads, and activations other than SiLU, are not run yet.",
            where=str(folder / "config.json"),
            hint="Give the model's own code with application.entry: package.module:build.",
        )
    with torch.device("meta"):
        model = LanguageModel(shape, told.rotary_base or ROTARY_BASE)
    state = dict(_renamed(_tensors(folder / "model.safetensors")))
    if shape.tied_embeddings:
        state["head.weight"] = state["embedding.weight"]
    model.load_state_dict(state, assign=True)
    if shape.tied_embeddings:
        model.head.weight = model.embedding.weight
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.eps = float(config.get("rms_norm_eps", 1e-5))
    return model.requires_grad_(True)


def tokenizer_of(folder: Path) -> Any:
    """The checkpoint's tokeniser, a `tokenizers.Tokenizer`, on one thread."""
    from tokenizers import Tokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a safetensors file one after the other, read and not mapped, so that memory holds them once."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        begin = opened.tell()
        for name, told in header.items():
            if name == "__metadata__":
                continue
            start, stop = told["data_offsets"]
            opened.seek(begin + start)
            data = bytearray(opened.read(stop - start))
            yield name, torch.frombuffer(data, dtype=_DTYPES[told["dtype"]]).reshape(told["shape"])


def _renamed(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's tensors under our names, in 32 bits."""
    ends = {"model.embed_tokens": "embedding", "model.norm": "norm", "lm_head": "head"}
    for name, tensor in tensors:
        module, _, kind = name.rpartition(".")
        if module in ends:
            yield f"{ends[module]}.{kind}", tensor.float()
        else:
            _, _, index, part = module.split(".", 3)  # model.layers.N.part
            yield f"blocks.{index}.{_PARTS[part]}.{kind}", tensor.float()


def _dimensions(shape: ModelShape) -> tuple[Any, ...]:
    """What weights have to agree in; positions and traits the checkpoint says itself."""
    sizes = (part.name for part in fields(ModelShape) if part.compare and part.name not in {"name", "window"})
    return tuple(getattr(shape, name) for name in sizes)


def _tokens(folder: Path, dataset: str) -> np.ndarray:
    """The text of the case in the checkpoint's tokens; of the standard library, its first MiB."""
    text = raw_text(dataset)
    text = text[:_TOKENISED_BYTES] if dataset in ("", "stdlib") else text
    pieces = [text[at : at + _PIECE_BYTES].decode("utf-8", "replace") for at in range(0, len(text), _PIECE_BYTES)]
    tokenizer = tokenizer_of(folder)
    found = [tokenizer.encode(piece, add_special_tokens=False).ids for piece in pieces]
    return np.concatenate([np.asarray(ids, dtype=np.int32) for ids in found])
