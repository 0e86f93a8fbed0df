"""Finds what a case trains: our language model, or the user's own `package.module:build`.

The user's module is looked for beside the case first.  It runs as the user's own code, with the user's own rights.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from datahall.base.errors import UsageError
from datahall.base.workload import Workload
from datahall.case.question import Case

OURS = "datahall.workloads.language_model:build"
OURS_PRETRAINED = "datahall.workloads.pretrained:build"


def build(case: Case, import_paths: Sequence[str] = ()) -> Workload:
    """The case's workload.  `import_paths` are folders to look in first; UsageError if the entry is not there."""
    entry = case.application.entry or (OURS_PRETRAINED if case.application.weights else OURS)
    workload = find(entry, import_paths)(case)
    if not isinstance(workload, Workload):
        raise UsageError(
            f"{entry} gave a {type(workload).__name__}, not a datahall.base.workload.Workload.",
            where="application.entry",
            hint="Return Workload(name=..., model=..., data=..., loss=...).",
        )
    return workload


def find(entry: str, import_paths: Sequence[str] = ()) -> Callable[[Case], Workload]:
    """The function that `package.module:build` names."""
    module_name, colon, function_name = entry.partition(":")
    if not colon or not module_name or not function_name:
        raise UsageError(
            f"{entry!r} is not package.module:function.",
            where="application.entry",
            hint='Write it like "my_model:build".',
        )
    sys.path[:0] = [path for path in import_paths if path not in sys.path]
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"cannot load {entry}: {error}.",
            where="application.entry",
            hint="Put the module beside the case, or install it where datahall runs.",
        ) from error
