"""A folder with the files that commands on the pages name: a config.json, a case, a plan, its log, a table of runs."""

import csv
import json
from pathlib import Path

from called import datahall

from datahall.catalog import published_runs

QWEN = {  # the shape of a small public model, as its config.json states it
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}


def furnish(room: Path) -> None:
    """Write them all into `room`."""
    (room / "config.json").write_text(json.dumps(QWEN))
    (room / "cases").mkdir()
    (room / "cases" / "first.yaml").write_text("model: gpt2\nsite: 8xA40\napplication: {kind: training}\n")
    asked = ["plan", "--model", "llama-3.1-8b", "--site", "8xA40", "--out", "plan.json", "--json"]
    planned = json.loads(datahall(*asked, cwd=room, DATAHALL_HOME=room / "home").stdout)
    step = next(metric["value"] for metric in planned["forecast"]["metrics"] if metric["name"] == "step_time")
    tokens_per_s = planned["case"]["application"]["global_batch"] * planned["case"]["application"]["sequence"] / step
    lines = [
        f"[titan] 2026-03-01 10:00:00 - root - INFO - step: {n:2}  loss:  8.10000  grad_norm:  1.0000  "
        f"memory: 38.50GiB(81.10%)  tps: {round(tokens_per_s / 8):,}  tflops: 50.00  mfu: 33.00%"
        for n in range(1, 9)
    ]
    (room / "train.log").write_text("\n".join(lines))
    rows = [dict(row) for row in published_runs.rows() if row["group"] == "korthikanti"]
    with (room / "runs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)
