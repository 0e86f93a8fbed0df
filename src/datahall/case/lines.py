"""YAML 1.2 in, plain values and the line of each out; and `path=value` settings laid over them.

Under YAML 1.2 `15e9` is a number and `no` is a word.  Whatever the file holds becomes only mappings, lists, text,
numbers, booleans and None; nothing here knows what a case is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from datahall.base.errors import CaseError, UsageError

MOST_NODES = 20_000
DEEPEST = 40

_TAG = "tag:yaml.org,2002:"

Path_ = tuple[str | int, ...]


@dataclass(slots=True)
class Document:
    """What a file said: its data, the line of each path in it, and where those stand that were laid over it."""

    data: Any
    file: str
    lines: dict[Path_, int] = field(default_factory=dict[Path_, int])
    elsewhere: dict[Path_, str] = field(default_factory=dict[Path_, str])

    def where(self, path: Path_) -> str:
        """`file:line` of the longest part of `path` that the file has, or the setting or file that put it there."""
        for length in range(len(path), -1, -1):
            part = tuple(path[:length])
            if part in self.elsewhere:
                return self.elsewhere[part]
            if part in self.lines:
                return f"{self.file}:{self.lines[part]}"
        return self.file

    def put(self, path: Path_, value: Any, places: Mapping[Path_, str]) -> None:
        """Lay `value` over what stands at `path`, whose last key alone may be new; `places` are where it stands."""
        inner = self.data
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
        for known in [known for known in self.lines if known[: len(path)] == path]:
            del self.lines[known]
        self.elsewhere |= places


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it: `site.accelerator.peak`."""
    return ".".join(str(part) for part in path)


def read(path: Path) -> Document:
    """The document in the file at `path`; CaseError if it cannot be read or is not one YAML mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CaseError(f"it cannot be read: {reason}.", where=str(path), hint="Check the path.") from error
    except UnicodeDecodeError as error:
        raise CaseError("it is not UTF-8 text.", where=str(path), hint="Pass a YAML file.") from error
    return parse(text, str(path))


def parse(text: str, file: str = "case", keys: str = "`model:`, `application:`, `site:` and `goal:`") -> Document:
    """The document that `text` holds; `file` names it in errors, and `keys` are those that it should have."""
    yaml = YAML(typ="safe", pure=True)
    try:
        root: Any = yaml.compose(text)  # pyright: ignore[reportUnknownMemberType]
    except MarkedYAMLError as error:
        found: Any = error
        mark = found.problem_mark or found.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise CaseError(f"this is not YAML: {found.problem}.", where=f"{file}{line}", hint="Check the line.") from error
    except (YAMLError, ValueError) as error:
        raise CaseError(f"this is not YAML: {error}.", where=file, hint="Check the file.") from error
    if root is None or root.id != "mapping":
        raise CaseError("it holds no keys.", where=file, hint=f"Write {keys}.")
    document = Document(None, file)
    document.data = _Reader(yaml, document).value(root, ())
    return document


def lay_over(document: Document, settings: Sequence[str]) -> None:
    """Put each `path=value` into `document`; the value is read as YAML.  UsageError if one has no such form."""
    for setting in settings:
        name, equals, text = setting.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or not all(path):
            raise UsageError(
                f'"{setting}" is not a setting.', where="--set", hint='Write it like "application.tokens=15e9".'
            )
        value = parse(f"value: {text}\n", f"--set {name}").data["value"]
        _put(document, path, value)


class _Reader:
    """Turns one tree of ruamel's nodes into plain values, with a limit on size so that aliases cannot blow it up.

    A node has an `id` (mapping, sequence, scalar), a `tag`, a `value` and a `start_mark`.
    """

    def __init__(self, yaml: YAML, document: Document) -> None:
        self._construct: Any = yaml.constructor.construct_object  # pyright: ignore[reportUnknownMemberType]
        self._document = document
        self._nodes = 0

    def value(self, node: Any, path: Path_) -> Any:
        """The plain value of `node`, which stands at `path`."""
        self._nodes += 1
        if self._nodes > MOST_NODES or len(path) > DEEPEST:
            raise CaseError("it is too large or too deep.", where=self._place(node), hint="A case is a page of text.")
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if node.id == "mapping":
            return self._mapping(node, path)
        if node.id == "sequence":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: Any, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if key_node.id == "scalar" else ""
            if not key or key == "<<":
                raise CaseError("a key must be a word.", where=self._place(key_node), hint="Write `key: value`.")
            if key in result:
                raise CaseError(f'"{key}" stands here twice.', where=self._place(key_node), hint="Keep one of them.")
            self._document.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*path, key))
        return result

    def _scalar(self, node: Any) -> Any:
        tag = str(node.tag)
        if tag in {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float")}:
            return self._construct(node)
        if tag in {f"{_TAG}str", f"{_TAG}timestamp"}:
            return str(node.value)
        raise CaseError(f"the tag {tag} means nothing in a case.", where=self._place(node), hint="Leave the tag out.")

    def _place(self, node: Any) -> str:
        return f"{self._document.file}:{node.start_mark.line + 1}"


def _put(document: Document, path: Path_, value: Any) -> None:
    inner: Any = document.data
    for depth, part in enumerate(path[:-1]):
        there = inner.get(part)
        if path[: depth + 1] == ("site",) and isinstance(there, str):
            there = inner[part] = {"catalog": there}  # a word is short for this, and what it stands for has keys
        if there is not None and not isinstance(there, dict):
            raise UsageError(
                f"{dotted(path[: depth + 1])} has no keys to set: it is {there!r}.",
                where=f"--set {dotted(path)}",
                hint=f'Set the whole of it, "{dotted(path[: depth + 1])}={{...}}".',
            )
        if there is None:
            inner[part] = {}
            document.elsewhere[path[: depth + 1]] = f"--set {dotted(path[: depth + 1])}"
        inner = inner[part]
    document.put(path, value, {path: f"--set {dotted(path)}"})
