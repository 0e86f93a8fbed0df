"""Checkpoints of a run: whole or not there, tensors without code in them, the newest good one found again.

A checkpoint is a folder `step-<number>` with `tensors.safetensors` and `meta.json`, written beside its place, flushed
to the disk and then renamed.  Anything else in the folder is ignored and cleared by the next commit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file, save

from datahall.base.errors import WorldFailed
from datahall.real.injection import Throttle

_CHUNK_BYTES = 4 * 2**20


def save_checkpoint(
    tensors: Mapping[str, torch.Tensor],
    meta: Mapping[str, Any],
    folder: Path,
    step: int,
    *,
    keep: int = 2,
    throttle: Throttle | None = None,
) -> int:
    """Commit a checkpoint of `step`; returns its bytes.  WorldFailed when the disk refuses, the older ones stay."""
    beside = folder / f".writing-{step}"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        count = _write(beside / "tensors.safetensors", save({k: v.contiguous() for k, v in tensors.items()}), throttle)
        count += _write(beside / "meta.json", json.dumps({**meta, "step": step}).encode(), None)
        _sync_folder(beside)
        shutil.rmtree(folder / f"step-{step}", ignore_errors=True)
        beside.rename(folder / f"step-{step}")
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise WorldFailed(
            f"the checkpoint of step {step} could not be written: {error.strerror or error}. "
            f"The last good one is of step {latest_step(folder)}.",
            where=str(folder),
            hint="Free some space and run again: training goes on from the last good checkpoint.",
        ) from error
    _forget(folder, keep)
    return count


def load_latest(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Tensors and meta of the newest committed checkpoint, or None."""
    step = latest_step(folder)
    if step is None:
        return None
    place = folder / f"step-{step}"
    return load_file(place / "tensors.safetensors"), json.loads((place / "meta.json").read_text())


def latest_step(folder: Path) -> int | None:
    """The step of the newest committed checkpoint, or None."""
    return max(_steps(folder), default=None)


def _write(path: Path, data: bytes, throttle: Throttle | None) -> int:
    with path.open("wb") as file:
        for at in range(0, len(data), _CHUNK_BYTES):
            _write_chunk(file, data[at : at + _CHUNK_BYTES], throttle)
        file.flush()
        os.fsync(file.fileno())
    return len(data)


def _write_chunk(file: BinaryIO, chunk: bytes, throttle: Throttle | None) -> None:
    file.write(chunk)
    if throttle is not None:
        throttle.send(len(chunk))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.glob("step-*") if (path / "meta.json").is_file()]
    return sorted(int(name.removeprefix("step-")) for name in names)


def _forget(folder: Path, keep: int) -> None:
    for step in _steps(folder)[: -max(1, keep)]:
        shutil.rmtree(folder / f"step-{step}", ignore_errors=True)
