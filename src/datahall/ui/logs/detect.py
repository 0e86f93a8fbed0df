"""Which program wrote a log, found by reading it as each of them would.

The reader that finds the most steps wins; a log in which none finds a step is refused.
"""

from __future__ import annotations

from pathlib import Path

from datahall.base.errors import UsageError
from datahall.ui.logs import deepspeed, huggingface, llm_foundry, megatron, torchtitan
from datahall.ui.logs.steps import TrainingLog

READERS = {reader.PROGRAM: reader.read for reader in (torchtitan, megatron, deepspeed, llm_foundry, huggingface)}


def read_log(path: Path) -> TrainingLog:
    """The log at `path`; UsageError where it cannot be read or no known program wrote it."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
    except OSError as error:
        raise UsageError(f"the log cannot be read: {error.strerror}.", where=str(path)) from error
    found = [read(lines) for read in READERS.values()]
    best = max(found, key=lambda log: len(log.steps))
    if not best.steps:
        raise UsageError(
            "no training step was found in this log.",
            where=str(path),
            hint=f"Logs that can be read are those of {', '.join(READERS)}.",
        )
    return best
