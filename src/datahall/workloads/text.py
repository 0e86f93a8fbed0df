"""Text as numbered samples: a case's shards, or what every machine has, the source of Python's standard library.

Tests of the standard library and installed packages are left out, since not every distribution ships them.  The text
differs between Python versions, so its digest belongs beside every loss.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datahall.base.errors import WorldFailed
from datahall.case.data import samples_in
from datahall.case.question import Training
from datahall.storage.input import SampleReader, ShardedData
from datahall.storage.shards import open_shards
from datahall.storage.text_file import read_text

VOCABULARY = 256  # one token per byte
HELD_OUT_SHARE = 0.02  # the end of the text, for the validation loss
_LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3", "turtledemo"}


class TextSamples:
    """Windows of `sequence` + 1 bytes (or tokens), one every `sequence`: inputs, and the next ones as targets."""

    def __init__(self, text: np.ndarray, sequence: int) -> None:
        self.text = text
        self.sequence = sequence

    def __len__(self) -> int:
        return samples_in(len(self.text), self.sequence)

    def batch(self, ids: Sequence[int]) -> torch.Tensor:
        """Token ids, shape (len(ids), sequence + 1)."""
        starts = np.asarray(ids, dtype=np.int64)[:, None] * self.sequence
        return torch.from_numpy(self.text[starts + np.arange(self.sequence + 1)].astype(np.int64))


def cut(text: np.ndarray, sequence: int) -> tuple[TextSamples, TextSamples]:
    """Bytes or tokens of a text as samples: to train on, and held out."""
    return TextSamples(text[: _boundary(text)], sequence), TextSamples(text[_boundary(text) :], sequence)


def training_text(sequence: int, dataset: str = "") -> TextSamples:
    """The text to train on, as samples: `dataset` is a text file, or "stdlib" (also empty)."""
    text = _text(dataset)
    return TextSamples(text[: _boundary(text)], sequence)


def held_out_text(sequence: int, dataset: str = "") -> TextSamples:
    """Text that training never sees, as samples."""
    text = _text(dataset)
    return TextSamples(text[_boundary(text) :], sequence)


class ShardedText:
    """Samples of a data set in shards, read when they are asked for; the shards themselves are `reader`'s."""

    def __init__(self, data: ShardedData) -> None:
        self.reader = SampleReader(data)

    def __len__(self) -> int:
        return sum(self.reader.data.sizes)

    def batch(self, ids: Sequence[int]) -> torch.Tensor:
        """Token ids, shape (len(ids), sequence + 1)."""
        return torch.from_numpy(np.stack(self.reader.samples(ids)).astype(np.int64))


def samples_of(application: Training) -> tuple[Any, Any]:
    """What a case trains on and what it holds out: its shards, or else its text in memory."""
    sequence = application.sequence
    if application.data is None:
        return training_text(sequence, application.dataset), held_out_text(sequence, application.dataset)
    found = open_shards(application.data.path)
    return ShardedText(found.training(sequence)), ShardedText(found.held(sequence))


def raw_text(dataset: str = "") -> bytes:
    """The whole text."""
    return _text(dataset).tobytes()


def _text(dataset: str) -> np.ndarray:
    if dataset in ("", "stdlib"):
        return _standard_library()
    return np.frombuffer(read_text(dataset, "application.dataset"), dtype=np.uint8)


@cache
def _standard_library() -> np.ndarray:
    root = Path(sysconfig.get_paths()["stdlib"])
    text = b"\n".join((root / name).read_bytes() for name in sorted(_sources(root)))
    if len(text) < 2**20:
        raise WorldFailed(
            f"only {len(text):,} bytes of Python source are left in the standard library.",
            where=str(root),
            hint="Name a dataset in application.dataset, or install Python with its sources.",
        )
    return np.frombuffer(text, dtype=np.uint8)


def _sources(root: Path) -> Iterator[str]:
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in _LEFT_OUT]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in files if name.endswith(".py"))


def _boundary(text: np.ndarray) -> int:
    return int(len(text) * (1 - HELD_OUT_SHARE))
