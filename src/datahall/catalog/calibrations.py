"""Calibrations that ship with datahall: fitted constants with their range of validity and their held-out error.

`python -m datahall.calibrate.refit` writes the files from the shipped figures; here they are only read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from datahall.base.errors import UnknownName


@cache
def calibration(name: str) -> Mapping[str, Any]:
    """The calibration called `name`; UnknownName where there is none."""
    file = resources.files("datahall.catalog") / "calibrations" / f"{name}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "`training` and `inference` do."
        raise UnknownName(f'no calibration "{name}" ships with datahall.', hint=hint) from error
