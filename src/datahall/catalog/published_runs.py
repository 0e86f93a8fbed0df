"""Published training runs that ship with datahall: figures that others measured, restated, each with its source.

`published/runs-*.csv` hold one run a row, `published/shapes.csv` the models, `published/sources.csv` where each figure
stands; `published/unseen.csv` are runs that were collected after the fit and that nothing is ever fitted to.  Rows are
handed out under the column names of common tables of measurements; blank means not stated.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources

# column here -> column of common tables
RUN_COLUMNS: Mapping[str, str] = {
    "key": "id",
    "model": "model",
    "task": "task",
    "accelerator": "accelerator",
    "devices": "n_devices",
    "devices_per_node": "devices_per_node",
    "sequence_tokens": "seq_len",
    "data": "dp",
    "tensor": "tp",
    "pipeline": "pp",
    "virtual_stages": "vp",
    "context": "cp",
    "expert": "ep",
    "sharding": "sharding",
    "micro_batch_sequences": "micro_batch",
    "global_batch_sequences": "global_batch",
    "recompute": "recompute",
    "precision": "dtype",
    "framework": "framework",
    "links": "interconnect",
    "step_s": "step_time_s",
    "tokens_per_s_per_device": "tokens_per_s_per_device",
    "model_tflops_per_s_per_device": "model_tflops_per_device",
    "memory_gib": "memory_gb_per_device",
    "primary": "primary_metric",
    "quality": "quality",
    "source": "source",
    "remark": "note",
}
SHAPE_COLUMNS: Mapping[str, str] = {
    "layers": "layers",
    "hidden": "hidden",
    "heads": "heads",
    "kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "ffn": "ffn",
    "mlp_matrices": "mlp_mats",
    "vocab": "vocab",
    "experts": "moe_experts",
    "experts_per_token": "moe_topk",
    "billion_parameters": "params_b",
    "remark": "arch_note",
}


@cache
def sources() -> Mapping[str, str]:
    """Where the figures stand, by the short names that rows use."""
    return {row["source"]: row["where"] for row in read("sources.csv")}


@cache
def rows() -> tuple[Mapping[str, str], ...]:
    """All shipped runs that constants are fitted to, with the columns of common tables."""
    found: list[Mapping[str, str]] = []
    for path in sorted(_folder().iterdir(), key=lambda entry: entry.name):
        if path.name.startswith("runs-"):
            group = path.name.removeprefix("runs-").removesuffix(".csv")
            found += [_common(row, group) for row in read(path.name)]
    return tuple(found)


@cache
def unseen_rows() -> tuple[Mapping[str, str], ...]:
    """Runs collected after the fit, with the same columns; for scoring alone."""
    return tuple(_common(row, row["group"]) for row in read("unseen.csv"))


def read(name: str) -> list[dict[str, str]]:
    """The rows of `published/<name>`, every cell as text; lines that begin with # are remarks."""
    text = (_folder() / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _common(row: Mapping[str, str], group: str) -> Mapping[str, str]:
    shape = _shapes().get(row["model"], {})
    known = {common: shape.get(own, "") for own, common in SHAPE_COLUMNS.items()}
    known |= {common: row.get(own, "") for own, common in RUN_COLUMNS.items()}
    return {**known, "source": sources().get(known["source"], known["source"]), "group": group}


@cache
def _shapes() -> Mapping[str, Mapping[str, str]]:
    return {row["model"]: row for row in read("shapes.csv")}


def _folder():
    return resources.files("datahall.catalog") / "published"
