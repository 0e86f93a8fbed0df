"""The folder that one run leaves behind.

    runs/<time>-<name>/
      case.json  plan.json  site.yaml  forecast.json  seal.json
      virtual/result.json  real/result.json  real/…events.jsonl
      comparison.json  heldout.json  again/again.json  report.html  trace.json.gz

This module knows names; what stands in the files is the business of those who write them.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datahall.base.errors import WorldFailed
from datahall.base.whole_file import cannot_write, write_text


def new_folder(root: Path, name: str, now: datetime | None = None) -> Path:
    """A new folder `root/<time>-<name>`, made at once so that two runs in the same second differ."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    safe_name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    for attempt in range(100):
        suffix = f"-{attempt}" if attempt else ""
        folder = root / f"{stamp}-{safe_name}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_write(folder, error) from error
        return folder
    raise WorldFailed(
        f"a hundred runs called {safe_name} began in this second.", where=str(root), hint="Wait a moment."
    )


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote; WorldFailed if it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorldFailed(
            f"cannot read it: {error}.", where=str(path), hint="Give the folder of a finished run."
        ) from error
