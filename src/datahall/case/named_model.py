"""A model of the catalogue as a `ModelShape`."""

from __future__ import annotations

from typing import Any

from datahall.case.model import LatentAttention, ModelShape
from datahall.catalog import models


def shape_of(name: str) -> ModelShape:
    """The shape of the catalogue's model `name`; UnknownName with its neighbours if there is none."""
    entry = models.model(name)
    fields: dict[str, Any] = dict(entry.shape)
    return ModelShape(name=entry.name, latent=LatentAttention(*entry.latent) if entry.latent else None, **fields)


def sequence_of(name: str) -> int:
    """The longest sequence of the catalogue's model `name`, in tokens."""
    return models.model(name).sequence
