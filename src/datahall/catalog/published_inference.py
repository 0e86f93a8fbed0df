"""Published times between tokens that ship with datahall: figures that others measured, restated, each with its source.

`published/inference-*.csv` hold one figure a row and one family (a source's own bench) a file.  Of the figures at hand
these are all that a closed loop measured (so many sequences in flight, a new prompt for each that ends), as their
sources publish them without a caveat, on one copy of the model, cut by tensor ranks inside of one scale-up domain
(eight devices).  Left out are speculation (30), attention in data parallel (22), and copies on 16 or 64 devices of
several nodes (49), none of which the forecast knows.  Releases of one engine stand side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from datahall.catalog import tables
from datahall.catalog.published_runs import read, sources

_BEGINS = "inference-"


@dataclass(frozen=True, slots=True)
class TokenFigure:
    """One time between two tokens of a sequence, as a mean or median over requests.

    `weights` is the precision of weights in products, 16 bits where the source says nothing; no source says that of the
    cache but lmdeploy's (16 bits).  Prompts and answers are of nominal length: inferencemax draws 0.8 to 1.0 of it.
    """

    key: str
    family: str
    model: str
    accelerator: str
    engine: str
    tensor: int
    weights: str
    sequences_at_once: int
    prompt_tokens: int
    answer_tokens: int
    token_s: float
    source: str


@dataclass(frozen=True, slots=True)
class RateFigure:
    """Tokens that each device answers a second where all requests are queued at once: as many in flight as fit."""

    key: str
    model: str
    accelerator: str
    tensor: int
    weights: str
    cache: str
    prompt_tokens: int
    answer_tokens: int
    tokens_per_s_per_device: float
    source: str


@cache
def figures() -> tuple[TokenFigure, ...]:
    """All shipped figures, by family."""
    names = sorted(entry.name for entry in (resources.files("datahall.catalog") / "published").iterdir())
    return tuple(
        tables.entry(
            TokenFigure, row, family=name.removeprefix(_BEGINS).removesuffix(".csv"), source=sources()[row["source"]]
        )
        for name in names
        if name.startswith(_BEGINS)
        for row in read(name)
    )


@cache
def unseen_figures() -> tuple[RateFigure, ...]:
    """Rates of full copies, for judging alone (TensorRT-LLM's own tables, two releases)."""
    return tuple(tables.entry(RateFigure, row, source=sources()[row["source"]]) for row in read("unseen-inference.csv"))
