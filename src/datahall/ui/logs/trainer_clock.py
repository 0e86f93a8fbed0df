"""The clock in the records of Hugging Face's Trainer: steps from what `train_runtime` grew by between two logs.

With include_num_input_tokens_seen each log tells the seconds since its session began; a restart begins a new one.
Evaluations between two logs are taken out, writing a checkpoint is not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from datahall.ui.logs.steps import LoggedStep, number

Record = Mapping[str, Any]
_SUMMARY = "train_steps_per_second"  # of the last record, whose time holds what comes after the last step too


def stretches(records: Iterable[Record]) -> list[LoggedStep]:
    """Each stretch between two logs of one session, as its last step with the mean seconds of its steps."""
    found: list[LoggedStep] = []
    before: Record | None = None
    judged_s = 0.0
    for record in records:
        judged_s += number(record.get("eval_runtime")) or 0.0
        if not timed(record) or number(record.get("step")) is None:
            continue
        if before and _one_session(before, record):
            steps = int(record["step"]) - int(before["step"])
            seconds = _seconds(record) - _seconds(before) - judged_s
            if steps > 0 and seconds > 0:
                found.append(LoggedStep(int(record["step"]), seconds / steps, loss=number(record.get("loss"))))
        before, judged_s = record, 0.0
    return found


def missing(records: Iterable[Record]) -> tuple[str, str]:
    """Why records of the Trainer tell no step's time, and what to do; empty texts where they are not its records."""
    logs = [record for record in records if {"loss", "learning_rate", "epoch"} <= record.keys()]
    if not logs:
        return "", ""
    said, times = f"this log of the Trainer has {len(logs)} logs", sum(timed(record) for record in logs)
    if not times:
        return f"{said} and no time of any.", (
            "Train with include_num_input_tokens_seen=True, and each log tells its time; or give what was printed with "
            "its progress bars, or the trainer_state.json that trainer.save_state() writes at the end."
        )
    if times > 1 and not any("step" in record for record in logs):
        return f"{said} with times, which do not say of which step.", "Give trainer_state.json of the last checkpoint."
    return f"{said} and no two of one session that tell their time.", "Compare after the next log (see logging_steps)."


def timed(record: Record) -> bool:
    """Whether a log of steps tells its time."""
    return number(record.get("train_runtime")) is not None and _SUMMARY not in record


def _seconds(record: Record) -> float:
    return number(record["train_runtime"]) or 0.0


def _one_session(before: Record, record: Record) -> bool:
    """Whether no restart lies between: the clock went on, and the tokens of the session grew by those that were seen.

    Rate times time is the session's tokens; its rounding is far below half of a stretch.
    """
    seen = _tokens(record) - _tokens(before)
    within = _tokens_of_session(record) - _tokens_of_session(before)
    return abs(seen - within) <= seen / 2 and _seconds(record) > _seconds(before)


def _tokens(record: Record) -> float:
    return number(record.get("num_input_tokens_seen")) or 0.0


def _tokens_of_session(record: Record) -> float:
    return (number(record.get("train_tokens_per_second")) or 0.0) * _seconds(record)
