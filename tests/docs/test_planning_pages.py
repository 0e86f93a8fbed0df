"""The commands on the pages on planning, exports and logs are run as they stand."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
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


@pytest.mark.parametrize("page", ["planning.md", "export.md", "logs.md"])
def test_every_command_of_the_page_runs(page: str, tmp_path: Path) -> None:
    _furnish(tmp_path)
    lines = (DOCS / page).read_text().splitlines()
    commands = [line.split("  #")[0].strip() for line in lines if line.startswith("    datahall ")]
    assert len(commands) >= 2
    environment = {**os.environ, "DATAHALL_HOME": str(tmp_path / "home")}
    for command in commands:
        arguments = [sys.executable, "-m", "datahall.ui.cli", *shlex.split(command)[1:]]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)


def _furnish(room: Path) -> None:
    """The files that the commands name: a config.json, a case, and for the pages on plans a plan and its log."""
    (room / "config.json").write_text(json.dumps(QWEN))
    (room / "cases").mkdir()
    (room / "cases" / "first.yaml").write_text("model: gpt2\nsite: 8xA40\napplication: {kind: training}\n")
    asked = ["plan", "--model", "llama-3.1-8b", "--site", "8xA40", "--out", "plan.json", "--json"]
    command = [sys.executable, "-m", "datahall.ui.cli", *asked]
    planned = json.loads(subprocess.run(command, cwd=room, check=True, capture_output=True, text=True).stdout)
    step = next(metric["value"] for metric in planned["forecast"]["metrics"] if metric["name"] == "step_time")
    tokens_per_s = planned["case"]["application"]["global_batch"] * planned["case"]["application"]["sequence"] / step
    lines = [
        f"[titan] 2026-03-01 10:00:00 - root - INFO - step: {n:2}  loss:  8.10000  grad_norm:  1.0000  "
        f"memory: 38.50GiB(81.10%)  tps: {round(tokens_per_s / 8):,}  tflops: 50.00  mfu: 33.00%"
        for n in range(1, 9)
    ]
    (room / "train.log").write_text("\n".join(lines))
