"""The shape of a published run's model: from its own columns, completed by the catalogue where a column is blank.

A model whose layers and width nobody states is refused.  No plan and no hardware here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from datahall.base.errors import DatahallError, Impossible, Refused, UnknownName, Unstated
from datahall.case.model import LatentAttention, ModelShape
from datahall.case.named_model import shape_of

_USUAL_VOCABULARY = 64000
_NUMBER = re.compile(  # thousands apart by commas or lines; "2,1" is none, since nobody knows what it means
    r"(\d{1,3}(?:[,_]\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?(?:e[-+]?\d+)?|\.\d+)(k\b)?(?![\w.]|[,_]\d)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Cells:
    """A row as text, with blanks and NaN as nothing."""

    texts: Mapping[str, str]

    def text(self, name: str) -> str:
        """The cell, or an empty string."""
        found = self.texts.get(name, "")
        blank = {"nan", "null", "n/a", "na", "-", "?", "unknown"} | ({"none"} if name != "recompute" else set())
        return "" if found.lower() in blank else found

    def number(self, name: str) -> float | None:
        """The positive number that the cell begins with ("1,024", "8k", "16 (2 nodes)"), or None."""
        found = _NUMBER.match(self.text(name))
        thousand = 1000 if "per_s" in name or name.startswith("model_tflops") else 1024  # of a rate, else of a count
        value = float(re.sub(r"[,_]", "", found[1])) * (thousand if found[2] else 1) if found else 0.0
        return value if math.isfinite(value) and value > 0 else None

    def count(self, name: str, otherwise: int = 1) -> int:
        """The cell as a whole number of at least one, or `otherwise` where it states none."""
        return int(self.number(name) or 0) or otherwise


def whole(value: float | None, name: str) -> int:
    """A count that a row must state."""
    if value is None:
        raise Unstated(f"{name} is not stated.")
    if value != round(value):
        raise Impossible(f"{name} is {value:g}, which is no whole number.")
    return round(value)


def shape_of_row(cells: Cells) -> ModelShape:
    """The model's shape; UnknownName where neither the row nor the catalogue states it, Unstated without a name.

    Where a note says that samples are packed from examples of so many tokens, attention reaches no further than those.
    """
    shape = _whole_samples(cells)
    packed = re.search(r"examples of (?:about )?(\d+) tokens", cells.text("note"))
    return replace(shape, window=int(packed[1]), window_share=1.0, chunked=True) if packed else shape


def _whole_samples(cells: Cells) -> ModelShape:
    known = _catalogued(cells.text("model"))
    stated = cells.number("layers") and cells.number("hidden")
    if not stated:
        if known is None:
            lacking = UnknownName if cells.text("model") else Unstated
            raise lacking("the model's shape is not stated and not in the catalogue.")
        return known
    if re.search(r"mamba|hybrid|ssm", cells.text("arch_note"), re.IGNORECASE):
        raise Refused("an architecture other than a transformer decoder.")
    if known is not None and _same(known, cells):
        vocab = cells.number("vocab")
        return replace(known, vocab=round(vocab)) if vocab else known
    return _from_columns(cells)


@cache
def _catalogued(name: str) -> ModelShape | None:
    for text in (name, re.sub(r"\s*\(.*\)", "", name), name.replace(" ", "-")):
        try:
            return shape_of(text)
        except DatahallError:
            continue
    return None


def _same(known: ModelShape, cells: Cells) -> bool:
    figures = {
        "layers": known.layers,
        "hidden": known.hidden,
        "heads": known.heads,
        "kv_heads": known.kv_heads,
        "head_dim": known.head_dim,
        "moe_experts": known.experts or None,
        "moe_topk": known.experts_per_token or None,
    }
    if not known.experts:  # of a mixture, tables give the width of an expert or of a dense layer
        figures["ffn"] = known.ffn
    stated = {name: cells.number(name) for name in figures}
    return all(value is None or value == figures[name] for name, value in stated.items())


def _from_columns(cells: Cells) -> ModelShape:
    layers, hidden = whole(cells.number("layers"), "layers"), whole(cells.number("hidden"), "hidden")
    if not cells.number("ffn") and not cells.number("heads"):
        raise Unstated("the model's shape is stated by depth and width only.")
    heads, kv_heads, head_dim = _heads(cells, hidden)
    matrices = round(cells.number("mlp_mats") or 3)
    experts = round(cells.number("moe_experts") or 0)
    shape = ModelShape(
        name=cells.text("model") or "unnamed",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=round(cells.number("ffn") or hidden * (4 if matrices == 2 else 3.5)),
        vocab=round(cells.number("vocab") or _USUAL_VOCABULARY),
        mlp_matrices=matrices,
    )
    if experts > 1:
        shape = replace(shape, experts=experts, experts_per_token=min(cells.count("moe_topk", 2), experts))
    return _tied(_noted(shape, cells.text("arch_note")), (cells.number("params_b") or 0) * 1e9)


def _heads(cells: Cells, hidden: int) -> tuple[int, int, int]:
    """Heads, those of keys and values, and their width."""
    head_dim = round(cells.number("head_dim") or 0)
    heads = round(cells.number("heads") or hidden / (head_dim or 128))
    head_dim = head_dim or max(1, hidden // max(1, heads))
    if not 1 <= heads <= hidden or head_dim < 1:
        raise Impossible(f"{heads} heads of width {head_dim} cannot be those of a model with width {hidden}.")
    kv_heads = cells.count("kv_heads", heads)
    if kv_heads > heads:
        raise Impossible(f"{kv_heads} heads of keys and values for {heads} heads.")
    return heads, kv_heads, head_dim


def _noted(shape: ModelShape, note: str) -> ModelShape:
    """The shape with what a remark says of its attention and its mixtures."""
    if window := re.search(r"(\d+)-token sliding window", note):
        shape = replace(shape, window=int(window[1]), window_share=0.5)
    if latent := _latent(note):
        shape = replace(shape, latent=latent, head_dim=latent.nope_dim + latent.rope_dim)
    if not shape.experts:
        return shape
    if shared := re.search(r"(\d+) shared expert", note):
        shape = replace(shape, shared_experts=int(shared[1]), shared_ffn=shape.ffn)
    if dense := re.search(r"first(?: (\d+))? layers? dense ffn (\d+)", note):
        shape = replace(shape, dense_layers=int(dense[1] or 1), dense_ffn=int(dense[2]))
    return shape


def _latent(note: str) -> LatentAttention | None:
    if "MLA" not in note:
        return None
    found = {name: re.search(rf"\b{name} (\d+)", note) for name in ("q_lora", "kv_lora", "rope", "nope", "v")}
    usual = {"q_lora": 1536, "kv_lora": 512, "rope": 64, "nope": 128, "v": 128}
    width = {name: int(match[1]) if match else usual[name] for name, match in found.items()}
    return LatentAttention(width["q_lora"], width["kv_lora"], width["rope"], width["nope"], width["v"])


def _tied(shape: ModelShape, published: float) -> ModelShape:
    """The one of tied and untied embeddings whose count is nearer to the published one."""
    tied = replace(shape, tied_embeddings=True)
    if published and abs(tied.parameters() - published) < abs(shape.parameters() - published):
        return tied
    return shape
