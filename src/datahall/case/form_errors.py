"""What pydantic found wrong in a case file, as one sentence with the line, the reason and what to write instead.

Only the first mistake is told: the next is often its consequence.
"""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from datahall.base.errors import CaseError
from datahall.case.lines import Document, Path_, dotted

F = TypeVar("F", bound=BaseModel)

# Former and foreign names of keys, by what they are called here.
RENAMED = {
    "accumulation": "global_batch",
    "bandwidth": "link",
    "batch": "global_batch",
    "batch_size": "global_batch",
    "catalogue": "catalog",
    "context_length": "sequence",
    "dtype": "precision",
    "global_batch_size": "global_batch",
    "gpu": "accelerator",
    "gpus": "devices_per_node",
    "gpus_per_node": "devices_per_node",
    "hidden_size": "hidden",
    "intermediate_size": "ffn",
    "interconnect": "link",
    "minimize": "minimise",
    "nnodes": "nodes",
    "num_attention_heads": "heads",
    "num_hidden_layers": "layers",
    "num_key_value_heads": "kv_heads",
    "num_nodes": "nodes",
    "objective": "minimise",
    "optimizer": "optimiser",
    "scale_out": "link",
    "scale_up": "device_link",
    "seq_len": "sequence",
    "seq_length": "sequence",
    "sequence_length": "sequence",
    "vocab_size": "vocab",
}


def check(form: type[F], data: Any, document: Document, path: Path_ = ()) -> F:
    """`data`, which stands at `path` of `document`, as a `form`; CaseError about its first mistake otherwise."""
    if not isinstance(data, dict):
        raise CaseError(
            f"{dotted(path) or 'the case'} is {shown(data)}, not a mapping.",
            where=document.where(path),
            hint=f"Its keys are {', '.join(form.model_fields)}.",
        )
    try:
        return form.model_validate(data)
    except ValidationError as error:
        raise _explain(error, form, document, path) from error


def shown(value: Any) -> str:
    """A value as it is quoted in an error."""
    if value is None:
        return "empty"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _explain(error: ValidationError, form: type[BaseModel], document: Document, path: Path_) -> CaseError:
    first = min(error.errors(), key=lambda found: (found["type"] != "extra_forbidden", len(found["loc"])))
    inner = tuple(part for part in first["loc"] if part != "[key]")
    place = (*path, *inner)
    kind, name = first["type"], dotted(place)
    where = document.where(place)
    if kind == "extra_forbidden":
        return _unknown_key(str(inner[-1]), _keys_at(form, inner[:-1]), name, where)
    if kind == "missing":
        return CaseError(f"{name} is missing.", where=where, hint=f"Write `{inner[-1]}: ...`.")
    reason = first.get("ctx", {}).get("error")
    said = str(reason) if isinstance(reason, ValueError) else first["msg"].lower().rstrip(".") + "."
    value = shown(first["input"])
    said = said.removeprefix(f"{first['input']!r} is ").removeprefix("input ").replace("should be '', ", "should be ")
    return CaseError(f"{name} is {value}: {said}", where=where)


def _keys_at(form: type[BaseModel], inner: tuple[str | int, ...]) -> list[str]:
    current: Any = form
    for part in inner:
        found = current.model_fields.get(part) if current else None
        current = _form_in(found.annotation) if found else None
    return list(current.model_fields) if current else []


def _form_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _unknown_key(key: str, known: list[str], name: str, where: str) -> CaseError:
    new = RENAMED.get(key)
    if new in known:
        return CaseError(f'{name} is not a key of a case: it is called "{new}".', where=where, hint=f"Write `{new}:`.")
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f'Did you mean "{near[0]}"?' if near else f"Keys here are {', '.join(known)}."
    return CaseError(f"{name} is not a key of a case.", where=where, hint=hint)
