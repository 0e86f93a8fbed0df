"""A site as a file: what `datahall probe` writes and a case reads with `site: {file: site.yaml}`.

Numbers are in base units, named by their fields; `provenance` gives the label of each.  Written whole or not at all.
What people write (`is_described`) is `stated_site`'s.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from datahall.base.errors import CaseError, UsageError
from datahall.base.whole_file import write_text
from datahall.case import lines, saved
from datahall.case.lines import Document
from datahall.case.question import site_json
from datahall.case.site import Site

FORMAT_VERSION = 1
_KEYS = "`accelerator:` and what else a site has (docs/case.md)"


def site_to_yaml(site: Site, notes: Mapping[str, str] | None = None) -> str:
    """The site as YAML text.  `notes` (what was measured and how) stand at its end and are ignored by the reader."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, **site_json(site)}
    if notes:
        content["notes"] = dict(notes)
    text = io.StringIO()
    yaml.dump(content, text)  # pyright: ignore[reportUnknownMemberType]
    return "# A site, in base units: bytes, seconds, FLOP/s, watts, USD.\n" + text.getvalue()


def site_from_yaml(text: str, file: str = "site.yaml") -> Site:
    """The site that `site_to_yaml` wrote; CaseError with the file if it is not one."""
    return site_in(lines.parse(text, file, _KEYS))


def site_in(document: Document) -> Site:
    """The site that `site_to_yaml` wrote, read."""
    data, file = dict[str, Any](document.data), document.file
    version = data.pop("format_version", None)
    data.pop("notes", None)
    if version is None:
        raise CaseError(
            "it states no format_version: this is no file of `datahall probe`.",
            where=file,
            hint="A site that you describe yourself is read as `site:` of a case (docs/case.md), or as `--site FILE`.",
        )
    if version != FORMAT_VERSION:
        raise CaseError(
            f"it has format_version {version!r}, not {FORMAT_VERSION}.", where=file, hint="Run `datahall probe` again."
        )
    try:
        return saved.site_from_json(data)
    except UsageError as error:
        raise CaseError(error.what, where=file, hint="Run `datahall probe` again.") from error


def is_described(document: Document) -> bool:
    """Whether a file is no probe's, but what people write under `site:` of a case."""
    return "format_version" not in document.data


def read_site(path: Path) -> Site:
    """The site of `datahall probe` in the file at `path`; CaseError if there is none."""
    return site_in(read(path))


def read(path: Path) -> Document:
    """What the file at `path` says; CaseError if it cannot be read or is no YAML mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "there is no such file" if missing else getattr(error, "strerror", None) or "it is not UTF-8 text"
        hint = f'Write it with `datahall probe --out {path}` or by hand (docs/case.md), or name a site like "8xA40".'
        raise CaseError(f"the site cannot be read: {reason}.", where=str(path), hint=hint) from error
    return lines.parse(text, str(path), _KEYS)


def write_site(site: Site, path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write the site to `path`, whole or not at all; WorldFailed if the disk or a permission is in the way."""
    write_text(path, site_to_yaml(site, notes))
