"""Tensors of a committed step as safetensors files, in the layout that Hugging Face loaders expect.

One file at a time is in memory.  Reading back from such files is not here: they are for other programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from datahall.base.errors import UsageError, WorldFailed
from datahall.storage import execute
from datahall.storage.execute_tensor import DTYPES
from datahall.storage.manifest import Manifest, Tensor
from datahall.storage.place import Place, open_place
from datahall.storage.store import committed_steps, read_manifest

FILE_BYTES = 4 << 30


def export_safetensors(
    path: str | Path | Place,
    folder: Path,
    *,
    step: int | None = None,
    prefix: str = "model.",
    file_bytes: int = FILE_BYTES,
) -> list[Path]:
    """Write the tensors whose names begin with `prefix` (which is cut off) to `folder`; the files that were written.

    `step` None is the newest.  More than `file_bytes` makes several files and an index.  Digests are checked.
    """
    place = open_place(path)
    step = _newest(place) if step is None else step
    chosen = _chosen(read_manifest(place, step), prefix, place.name)
    groups = _groups(chosen, file_bytes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorldFailed(f"the folder cannot be made ({error.strerror}).", where=str(folder)) from error
    where: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        last = len(groups)
        file = "model.safetensors" if last == 1 else f"model-{number:05d}-of-{last:05d}.safetensors"
        state = {n: torch.empty(chosen[n].shape, dtype=DTYPES[chosen[n].dtype]) for n in names}
        execute.load(place, state, step=step)
        _write(folder / file, {name.removeprefix(prefix): tensor for name, tensor in state.items()})
        where |= {name.removeprefix(prefix): file for name in names}
    written = [folder / file for file in dict.fromkeys(where.values())]
    if len(groups) > 1:
        total = sum(tensor.bytes for tensor in chosen.values())
        written.append(folder / "model.safetensors.index.json")
        written[-1].write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2) + "\n")
    return written


def _newest(place: Place) -> int:
    steps = committed_steps(place)
    if not steps:
        raise UsageError("there is nothing to export.", where=place.name)
    return steps[-1]


def _chosen(manifest: Manifest, prefix: str, where: str) -> dict[str, Tensor]:
    chosen = {name: tensor for name, tensor in manifest.tensors.items() if name.startswith(prefix)}
    if not chosen:
        known = ", ".join(sorted({name.split(".")[0] + "." for name in manifest.tensors})[:8])
        raise UsageError(f"no tensor begins with {prefix!r}.", where=where, hint=f"Names there begin with {known}")
    return chosen


def _write(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    temporary = file.with_name(f".{file.name}.part")
    try:
        save_file(tensors, temporary, {"format": "pt"})
        os.replace(temporary, file)
    except KeyError as error:
        what = f"safetensors have no type for {error.args[0]}."
        raise UsageError(what, where=str(file), hint="Choose a --prefix without such tensors.") from error
    except Exception as error:  # safetensors has errors of its own
        temporary.unlink(missing_ok=True)
        raise WorldFailed(f"writing failed: {error}.", where=str(file), hint="Make room, and export again.") from error


def _groups(tensors: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if groups[-1] and held + tensor.bytes > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += tensor.bytes
    return groups
