"""Telling whoever listens what happens, with the seconds since the beginning.  What is worth telling others decide."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from datahall.base.event import Event, OnEvent


def teller(on_event: OnEvent | None) -> Callable[..., None]:
    """A function of a kind and its data that passes them on, with the seconds since now."""
    began_s = time.monotonic()

    def say(kind: str, **data: Any) -> None:
        if on_event is not None:
            on_event(Event(time.monotonic() - began_s, kind, data))

    return say
