"""A resolved case: what is asked, as frozen values in base units, with a hash that a plan carries.

`Case` is what `resolve` makes from a file; it holds no file names and nothing of the machine it is read on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from datahall.base.label import Label
from datahall.case.data import Data
from datahall.case.generation import Generation
from datahall.case.model import ModelShape
from datahall.case.site import Site

_UNPLANNED = {part.name for part in fields(ModelShape) if not part.compare}  # positions and traits


@dataclass(frozen=True, slots=True)
class Training:
    """A training run: `tokens` in all, in batches of `global_batch` sequences of `sequence` tokens."""

    tokens: float
    global_batch: int
    sequence: int
    precision: str = ""  # empty: the plan chooses
    optimiser: str = "adamw"
    method: str = "full"  # full | lora
    lora_rank: int = 0
    lora_alpha: int = 0  # 0: twice the rank
    lora_targets: str = "attention"  # attention | all: beside which matrices of a layer the adapters are
    weights: str = ""  # what the model starts from: a folder of a Hugging Face checkpoint, or a name; empty: random
    entry: str = ""  # package.module:build of the user's own workload
    dataset: str = ""
    data: Data | None = None  # in shards on a tier; None: what the workload builds in memory
    seed: int = 0
    lossy_checkpoint: str = ""  # bf16 | int8: what 32-bit numbers of a checkpoint may be rounded to; empty: nothing
    engine: str = ""  # pytorch | tensorflow | jax; empty: PyTorch
    generation: Generation | None = None  # what `datahall generate` makes; training does not look at it

    @property
    def steps(self) -> int:
        """Optimiser steps, rounded up."""
        per_step = self.global_batch * self.sequence
        return max(1, -int(-self.tokens // per_step))


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted: the quantity to make small and the bounds that must hold (infinite: none)."""

    minimise: str = "time"  # time | cost | energy
    deadline_s: float = float("inf")
    budget_usd: float = float("inf")
    energy_j: float = float("inf")  # at the wall of the facility, of the devices that the plan holds

    @property
    def spends(self) -> bool:
        """Whether money or energy is bounded, which more devices do not spare."""
        return min(self.budget_usd, self.energy_j) < float("inf")


@dataclass(frozen=True, slots=True)
class Case:
    """A question.  `provenance` gives the label of each input by path, `defaults` why a value was chosen."""

    name: str
    model: ModelShape
    application: Training
    site: Site
    goal: Goal
    provenance: Mapping[str, Label] = field(default_factory=lambda: MappingProxyType({}))
    defaults: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def to_json(self) -> dict[str, Any]:
        """The case as plain JSON values, the labels by name."""
        return _plain(
            {
                "name": self.name,
                "model": asdict(self.model),
                "application": asdict(self.application),
                "site": site_json(self.site),
                "goal": asdict(self.goal),
                "provenance": {path: str(label) for path, label in self.provenance.items()},
                "defaults": dict(self.defaults),
            }
        )

    def hash(self) -> str:
        """SHA-256 of the question (model, application, site, goal), hexadecimal.

        What is empty or zero is left out, so that a key that a later release adds does not disown saved plans, and so
        are no bound on energy, which is such a key, and positions, which change no plan.
        """
        whole = self.to_json()
        whole["model"] = {key: value for key, value in whole["model"].items() if key not in _UNPLANNED}
        whole["goal"] = {key: value for key, value in whole["goal"].items() if (key, value) != ("energy_j", "infinite")}
        asked = _without_empty({key: whole[key] for key in ("model", "application", "site", "goal")})
        return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def site_json(site: Site) -> dict[str, Any]:
    """The site as plain JSON values, the labels by name; infinite numbers as "infinite"."""
    fields = {
        name: getattr(site, name) for name in site.__dataclass_fields__ if name not in {"accelerator", "provenance"}
    }
    accelerator = {name: getattr(site.accelerator, name) for name in site.accelerator.__dataclass_fields__}
    links = {name: asdict(fields[name]) for name in ("scale_up", "scale_out", "disk")}
    labels = {path: str(label) for path, label in site.provenance.items()}
    return _plain({**fields, **links, "accelerator": accelerator, "provenance": labels})


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_empty(inner) for key, inner in value.items() if inner}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float) and value == float("inf"):
        return "infinite"
    return value
