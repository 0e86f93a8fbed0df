"""A Hugging Face `config.json` as a `ModelShape`, without the transformers library.

Families are read by their own rules; an architecture that is not known is read like Llama's if every field that this
needs is there (and a note says so), and refused otherwise.  So is what `hf_foreign` knows to follow other formulas.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from datahall.base.errors import CaseError
from datahall.case import hf_dense, hf_families, hf_foreign, hf_mixtures, hf_rotary, hf_traits
from datahall.case.model import ModelShape

_UNCOUNTED = {"name", "latent", "rotary_base", "rotary_share", "rotary_scaling", "traits"}
_TEXT_PARTS = ("text_config", "llm_config", "language_config")
_SIZES = ("hidden_size", "num_hidden_layers", "embed_dim", "d_model", "depth", "width")


@dataclass(frozen=True, slots=True)
class HfModel:
    """What a config.json says: shape, longest sequence (0: not stated), and what was inferred or is not counted."""

    shape: ModelShape
    sequence: int
    note: str = ""


def read_config(path: Path) -> HfModel:
    """The model of the config.json at `path` (or in that directory); CaseError if it cannot be read or counted."""
    file = path / "config.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(
            f"it cannot be read: {(error.strerror or str(error)).lower()}.",
            where=str(file),
            hint="Pass the path of a config.json.",
        ) from error
    except ValueError as error:
        raise CaseError(f"it is not JSON: {error}.", where=str(file), hint="Pass a model's config.json.") from error
    if not isinstance(data, dict):
        raise CaseError("it is not a JSON object.", where=str(file), hint="Pass a model's config.json.")
    name = file.parent.name if file.name == "config.json" else file.stem
    return from_config(data, where=str(file), name=name)  # pyright: ignore[reportUnknownArgumentType]


def from_config(config: Mapping[str, Any], *, where: str = "config.json", name: str = "") -> HfModel:
    """The model that a parsed config.json describes.  `where` names the file in errors."""
    inner = {key: value for key, value in _text_part(config).items() if value is not None}
    kind = str(inner.get("model_type", ""))
    reader = hf_families.FAMILIES.get(kind)
    stated = {**inner, "architectures": config.get("architectures")}
    hf_foreign.refuse_foreign(stated, kind, where, known=reader is not None)
    label = _name(config, name, kind)
    try:
        fields = (reader or hf_mixtures.inferred)(inner)
        traits = hf_traits.traits_of(inner, kind, fields)
        shape = ModelShape(name=label, **fields, **hf_rotary.rotary_of(inner, kind, fields), traits=traits)
    except KeyError as error:
        raise _missing(error, kind, reader is not None, where) from error
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CaseError(
            f"a field has a value that cannot be used: {error}.",
            where=where,
            hint="Compare it with the model's original config.json.",
        ) from error
    _check_sane(shape, where)
    hf_mixtures.check_experts(inner, shape, where)
    guessed = f'architecture "{kind or "unnamed"}" is not known; its shape was read from the usual fields'
    notes = [] if reader else [guessed]
    notes += [f"what its {other} describes is not counted, only its text model" for other in _beside_text(config)]
    return HfModel(shape, hf_dense.sequence_of(inner) or hf_families.LONGEST.get(kind, 0), "; ".join(notes))


def _beside_text(config: Mapping[str, Any]) -> list[str]:
    """Parts of a model that have layers of their own beside its text model's: for images, sound, video."""
    parts = {key: part for key, part in config.items() if key.endswith("_config") and key not in _TEXT_PARTS}
    return [key for key, part in parts.items() if isinstance(part, Mapping) and any(size in part for size in _SIZES)]


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _TEXT_PARTS:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            own = {k: v for k, v in cast(Mapping[str, Any], inner).items() if v is not None}
            inherited = {k: config[k] for k in ("vocab_size", "tie_word_embeddings") if k in config}
            kind = own.get("model_type") or config.get("model_type", "")
            return {**inherited, **own, "model_type": kind}
    return config


def _name(config: Mapping[str, Any], name: str, kind: str) -> str:
    stated = str(config.get("_name_or_path", "")).rstrip("/").split("/")[-1]
    return stated or name or kind or "model"


def _missing(error: KeyError, kind: str, known: bool, where: str) -> CaseError:
    field = error.args[0]
    if known:
        return CaseError(
            f'field "{field}" is missing, which a "{kind}" model needs.',
            where=where,
            hint="Pass the model's original config.json.",
        )
    listed = ", ".join(
        sorted({"llama", "mistral", "mixtral", "qwen2", "qwen3", "deepseek_v3", "gemma3", "gpt2", "gpt_oss"})
    )
    return CaseError(
        f'architecture "{kind or "unnamed"}" is not known, and field "{field}", which its shape needs, is missing.',
        where=where,
        hint=f"Known are {listed} and {len(hf_families.FAMILIES) - 9} more; or state the shape inline in the case.",
    )


def _check_sane(shape: ModelShape, where: str) -> None:
    needed = {"layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab"}
    numbers = {name: getattr(shape, name) for name in shape.__dataclass_fields__ if name not in _UNCOUNTED}
    numbers |= {
        name: getattr(shape.latent, name) for name in (shape.latent.__dataclass_fields__ if shape.latent else ())
    }
    for name, value in numbers.items():
        if name == "window_share":
            continue
        if not isinstance(value, int) or not int(name in needed) <= value < 2**53:
            raise CaseError(
                f'"{name}" comes out as {reprlib.repr(value)}.',
                where=where,
                hint="It must be a whole number above zero.",
            )
    if shape.latent is None and shape.heads % shape.kv_heads:
        raise CaseError(
            f"{shape.heads} attention heads cannot share {shape.kv_heads} key-value heads evenly.",
            where=where,
            hint="Check num_key_value_heads.",
        )
