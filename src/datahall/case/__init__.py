"""The question: a model, an application, a site and a goal.

YAML and Hugging Face `config.json` come in through `load`; pydantic checks them at the door; names become the frozen
values of `model`, `site` and `question`, plain numbers in base units with a table of where each came from.  What reads
files is imported when it is first used, so that the values alone stay quick to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datahall.case.door import load, loads
    from datahall.case.local import local_site, site_path
    from datahall.case.quick import from_model_and_site
    from datahall.case.site_file import read_site, site_from_yaml, site_to_yaml, write_site

__all__ = [
    "from_model_and_site",
    "load",
    "loads",
    "local_site",
    "read_site",
    "site_from_yaml",
    "site_path",
    "site_to_yaml",
    "write_site",
]

_HOMES = {
    "from_model_and_site": "quick",
    "load": "door",
    "loads": "door",
    "local_site": "local",
    "read_site": "site_file",
    "site_from_yaml": "site_file",
    "site_path": "local",
    "site_to_yaml": "site_file",
    "write_site": "site_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
