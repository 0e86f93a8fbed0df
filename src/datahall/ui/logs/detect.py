"""Which program wrote a log, found by reading it as each of them would.

The reader that finds the most steps wins; a log in which none finds a step is refused.  Colours, and what launchers put
before each line (`[rank3]:`, `[default3]:`, srun's `3: `, mpirun's `[1,3]<stdout>:`, Ray's `(worker pid=7) `, the pod
and the time that kubectl writes), are taken off first.  A step that several ranks log counts once.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from datahall.base.errors import UsageError
from datahall.ui.logs import deepspeed, huggingface, llm_foundry, megatron, torchtitan
from datahall.ui.logs.steps import ANSI, TrainingLog, counted_once

_LAUNCHER = re.compile(
    r"^(?:\[(?:rank|default)?\d+\]:|\[\d+,\d+\]<\w+>:| *\d+:(?= )"
    r"|\(\S+ pid=\d+(?:, ip=[^)]*)?\) |\[pod/\S+\] "
    r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d) (?:std(?:out|err) [FP] )?)+",
    re.MULTILINE,
)
READERS = {reader.PROGRAM: reader.read for reader in (torchtitan, megatron, deepspeed, llm_foundry, huggingface)}


def read_log(path: Path) -> TrainingLog:
    """The log at `path`; UsageError where it cannot be read or no known program wrote it."""
    try:
        text = _text(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the log cannot be read: {error.strerror}.", where=str(path)) from error
    lines = _LAUNCHER.sub("", ANSI.sub("", text.replace("\r", "\n"))).split("\n")
    found = [counted_once(read(lines)) for read in READERS.values()]
    best = max(found, key=lambda log: len(log.steps))
    if best.steps:
        return best
    if known := next((log for log in found if log.lacks), None):
        raise UsageError(known.lacks, where=str(path), hint=known.hint)
    hint = f"Logs that can be read are those of {', '.join(READERS)}."
    raise UsageError("no training step was found in this log.", where=str(path), hint=hint)


def _text(data: bytes) -> str:
    """UTF-8, or the UTF-16 that PowerShell writes."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")
