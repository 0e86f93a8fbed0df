"""Rows of measured training for `datahall validate`: shipped ones, files of them, and the table beside the code."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from click.testing import CliRunner, Result

from datahall.catalog import published_runs
from datahall.ui.validate import validate


def ran(*arguments: str) -> Result:
    result = CliRunner().invoke(validate, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def written(path: Path, rows: list[dict[str, str]]) -> str:
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def shipped_rows(group: str) -> list[dict[str, str]]:
    return [dict(row) for row in published_runs.rows() if row["group"] == group]


def truth() -> Path | None:
    named = os.environ.get("DATAHALL_TRUTH")
    beside = Path(__file__).resolve().parents[3] / "shared" / "truth"
    for folder in ([Path(named)] if named else []) + [beside]:
        if (folder / "training.csv").exists():
            return folder / "training.csv"
    return None
