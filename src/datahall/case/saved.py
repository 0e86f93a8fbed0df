"""A resolved case comes back from the JSON that `Case.to_json` wrote.

For plan files, run folders and worker processes.  It does not read case files made by people; the door does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from datahall.base.errors import UsageError
from datahall.base.label import Label
from datahall.case.data import data_from_json
from datahall.case.generation import generation_from_json
from datahall.case.model import LatentAttention, ModelShape
from datahall.case.question import Case, Goal, Training
from datahall.case.site import Accelerator, Disk, Link, Site


def case_from_json(data: Mapping[str, Any]) -> Case:
    """The case that `Case.to_json` wrote; UsageError when a field is missing or unknown."""
    try:
        plain = cast(dict[str, Any], _numbers(data))
        model = _model(plain["model"])
        application = _application(plain["application"])
        site = _site(plain["site"])
        provenance = _labels(plain.get("provenance", {}))
        return Case(
            plain["name"], model, application, site, Goal(**plain["goal"]), provenance, plain.get("defaults", {})
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"this is not a resolved case: {error}.", hint="Pass a file that this release of datahall wrote."
        ) from error


def site_from_json(data: Mapping[str, Any]) -> Site:
    """The site that `question.site_json` wrote; UsageError when a field is missing or unknown."""
    try:
        return _site(cast(dict[str, Any], _numbers(data)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"this is not a site: {error}.", hint="Write one with `datahall probe`.") from error


def _model(data: dict[str, Any]) -> ModelShape:
    latent = data.get("latent")
    fields: dict[str, Any] = {**data, "latent": LatentAttention(**latent) if latent else None}
    return ModelShape(**fields)


def _application(data: dict[str, Any]) -> Training:
    held, made = data.get("data"), data.get("generation")
    parts = {"data": data_from_json(held) if held else None, "generation": generation_from_json(made) if made else None}
    fields: dict[str, Any] = {**data, **parts}
    return Training(**fields)


def _site(data: dict[str, Any]) -> Site:
    links = {"scale_up": Link, "scale_out": Link, "disk": Disk}
    parts: dict[str, Any] = {name: made(**data[name]) for name, made in links.items()}
    known = {field.name for field in fields(Site)}
    if unknown := set(data) - known:
        raise KeyError(f"site.{min(unknown)}")
    accelerator, provenance = Accelerator(**data["accelerator"]), _labels(data.get("provenance", {}))
    whole: dict[str, Any] = {**data, **parts, "accelerator": accelerator, "provenance": provenance}
    return Site(**whole)


def _labels(data: Mapping[str, str]) -> dict[str, Label]:
    return {path: Label.of(text) for path, text in data.items()}


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(inner) for key, inner in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in cast(list[Any], value)]
    return float("inf") if value == "infinite" else value
