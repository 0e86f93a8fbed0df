"""A register of the formulas that datahall estimates with: paper, equation, where each holds.

`datahall cite` prints it and docs/formulas.md is generated from it.  Registering changes nothing about the function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a formula comes from and where it holds."""

    function: str
    equation: str
    source: str
    holds: str


_REGISTER: dict[str, Citation] = {}


def formula(*, equation: str, source: str, holds: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as the implementation of a published (or our own, then say so) formula."""

    def register(function: Callable[P, R]) -> Callable[P, R]:
        name = f"{function.__module__}.{function.__qualname__}"
        _REGISTER[name] = Citation(name, equation, source, holds)
        return function

    return register


def citations() -> list[Citation]:
    """Every registered formula, ordered by the name of its function.  Only modules already imported have registered."""
    return [_REGISTER[name] for name in sorted(_REGISTER)]
