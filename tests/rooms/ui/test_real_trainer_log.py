"""What transformers' own Trainer writes is read in the middle of a run, after a restart and at the end; or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datahall.base.errors import UsageError
from datahall.ui.logs.detect import read_log

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")


def trained(folder: Path, steps: int, *, resume: bool = False, **options: Any) -> Any:
    """A Trainer that has trained a tiny model to step `steps`, with a log every 4 steps and a checkpoint every 12."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, num_key_value_heads=2, vocab_size=64))
    ids = torch.arange(16) % 64
    data = [{"input_ids": ids, "labels": ids}] * 200
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True}
    often = {"max_steps": steps, "logging_steps": 4, "save_steps": 12, "per_device_train_batch_size": 2}
    given = transformers.TrainingArguments(output_dir=str(folder), **quiet, **often, **options)
    trainer = transformers.Trainer(model=model, args=given, train_dataset=data, eval_dataset=data[:8])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def state_of(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}" / "trainer_state.json"


def test_a_checkpoint_in_the_middle_of_a_run_tells_its_steps(tmp_path: Path) -> None:
    """Seconds are differences of `train_runtime`, less the evaluations between; a restart starts its clock again."""
    timed = {"include_num_input_tokens_seen": True, "eval_strategy": "steps", "eval_steps": 8}
    trained(tmp_path, 24, **timed)
    history = json.loads(state_of(tmp_path, 12).read_text())["log_history"]
    at = {record["step"]: record["train_runtime"] for record in history if "loss" in record}
    judged = {record["step"]: record["eval_runtime"] for record in history if "eval_runtime" in record}
    log = read_log(state_of(tmp_path, 12))
    assert log.program == "huggingface-trainer"
    assert [step.step for step in log.steps] == [8, 12]
    wanted = [(at[8] - at[4]) / 4, (at[12] - at[8] - judged[8]) / 4]
    assert [step.seconds for step in log.steps] == pytest.approx(wanted)
    assert log.steps[-1].loss == pytest.approx(history[-1]["loss"])
    lines = tmp_path / "log.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in history))
    assert read_log(lines) == log

    trained(tmp_path, 36, resume=True, **timed)
    assert [step.step for step in read_log(state_of(tmp_path, 36)).steps] == [8, 12, 16, 20, 24, 32, 36]


def test_a_state_without_times_is_refused_with_what_to_set(tmp_path: Path) -> None:
    trainer = trained(tmp_path, 12)
    with pytest.raises(UsageError, match="has 3 logs and no time of any") as refused:
        read_log(state_of(tmp_path, 12))
    assert "include_num_input_tokens_seen=True" in refused.value.hint
    trainer.save_state()  # with the summary of the whole run
    assert read_log(tmp_path / "trainer_state.json").steps[0].step == 12
