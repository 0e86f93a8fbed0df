"""Values that are no tensors (step counts, betas, group names) as JSON and back, tuples kept; never pickle.

Anything else is refused when it is saved, so that a checkpoint is data and nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from datahall.storage.faults import Unsafe

_TAG = "::"
_INSTEAD = {
    "Tensor": "Tensors belong into the state, not here.",
    "ndarray": "Make it a tensor: torch.from_numpy.",
    "bytes": "Make them a tensor: torch.frombuffer(bytearray(...), dtype=torch.uint8).",
    "set": "Make it a sorted list.",
}


def to_plain(value: Any, where: str) -> Any:
    """`value` as JSON values; Unsafe names the entry that cannot be stored."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_TAG: "float", "is": repr(value)}
    if isinstance(value, list):
        return [to_plain(inner, where) for inner in cast("list[Any]", value)]
    if isinstance(value, tuple):
        return {_TAG: "tuple", "is": [to_plain(inner, where) for inner in cast("tuple[Any, ...]", value)]}
    if isinstance(value, dict):
        pairs = [[to_plain(k, where), to_plain(v, where)] for k, v in cast("dict[Any, Any]", value).items()]
        return {_TAG: "dict", "is": pairs}
    raise _refused(value, where)


def check_json(value: Any, where: str) -> None:
    """Unsafe, with its place, for what JSON cannot hold or would change; only that tuples become lists is allowed."""
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[Any, Any]", value).items():
            if not isinstance(key, str):
                raise Unsafe(f"the key {key!r} is no text.", where=where, hint="JSON has texts for keys: use str(key).")
            check_json(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(cast("list[Any]", value)):
            check_json(inner, f"{where}.{number}")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise _refused(value, where)


def from_plain(value: Any) -> Any:
    """The value that `to_plain` wrote."""
    if isinstance(value, list):
        return [from_plain(inner) for inner in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    tagged = cast("dict[str, Any]", value)
    inner: Any = tagged["is"]
    if tagged[_TAG] == "float":
        return float(inner)
    if tagged[_TAG] == "tuple":
        return tuple(from_plain(entry) for entry in inner)
    return {from_plain(k): from_plain(v) for k, v in inner}


def _refused(value: Any, where: str) -> Unsafe:
    kind = type(value).__name__
    usual = "Use .item()." if hasattr(value, "item") else "Give its state as numbers, texts, lists and dictionaries."
    return Unsafe(
        f"a value of type {kind} cannot be stored: a checkpoint holds tensors and plain values.",
        where=where,
        hint=_INSTEAD.get(kind, usual),
    )
