"""A data set in shards as a case names it: where it lies, how large its shards are, which cache may stand before it.

`datahall data shard` writes such a folder; `data.json` in it says everything that is here.  Samples are not read here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datahall.base.errors import CaseError

MANIFEST = "data.json"
FORMAT_VERSION = 1
UNDECIDED = -1


@dataclass(frozen=True, slots=True)
class CacheWish:
    """A cache that the case allows: `use` auto (where the plan says that it pays), always or never."""

    limit_bytes: float = 0.0  # of all workers together; 0: no cache
    policy: str = "lru"
    use: str = "auto"


@dataclass(frozen=True, slots=True)
class Data:
    """Shards of tokens at `path`, a folder or a URL; element i of each tuple is training shard i.

    `form` is what lies there: tokens, or text that becomes tokens when it is read.  Preparing a shard (decoding,
    tokenising) took `prepare_s` seconds where the data were written.  `ahead` micro-batches are read ahead (UNDECIDED:
    the plan chooses).  The tier's rate and latency are 0 where the case does not state them: the site's disk.
    """

    path: str
    form: str
    vocab: int
    tokens: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    prepared_bytes: tuple[int, ...]
    prepare_s: float
    ahead: int = UNDECIDED
    cache: CacheWish = CacheWish()
    read_bytes_per_s: float = 0.0
    latency_s: float = 0.0

    def sizes(self, sequence: int) -> tuple[int, ...]:
        """Samples of `sequence` tokens (and the one behind them) in each shard."""
        return tuple(samples_in(tokens, sequence) for tokens in self.tokens)


def samples_in(tokens: int, sequence: int) -> int:
    """Samples in a shard of so many tokens."""
    return max(0, tokens - 1) // sequence


def data_from_json(data: dict[str, Any]) -> Data:
    """What `dataclasses.asdict` and JSON made of it."""
    lists = {name: tuple(int(x) for x in data[name]) for name in ("tokens", "stored_bytes", "prepared_bytes")}
    fields: dict[str, Any] = {**data, **lists, "cache": CacheWish(**data["cache"])}
    return Data(**fields)


def described(path: str, where: str) -> dict[str, Any]:
    """The fields of `Data` that the folder itself knows; CaseError where it is no data set."""
    hint = "Make it: `datahall data shard TEXT FOLDER` (docs/input.md)."
    try:
        found = json.loads(_text(path))
        shards = found["shards"][: len(found["shards"]) - found["held_out"]]
        if found["format_version"] != FORMAT_VERSION:
            raise CaseError(f"{path} has format_version {found['format_version']}.", where=where, hint=hint)
        columns = ("tokens", "stored_bytes", "prepared_bytes")
        lists = {name: tuple(int(shard[name]) for shard in shards) for name in columns}
        prepare_s, vocab = float(found["prepare_s"]), int(found["vocab"])
        return {"path": path, "form": str(found["form"]), "vocab": vocab, "prepare_s": prepare_s, **lists}
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise CaseError(f"there is no data set at {path} ({why}).", where=where, hint=hint) from error
    except ImportError as error:
        hint = 'Install the driver (for S3: pip install "datahall[s3]").'
        raise CaseError(f"{path} needs a driver: {error}.", where=where, hint=hint) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{path}/{MANIFEST} describes no data set ({error}).", where=where, hint=hint) from error
    except CaseError:
        raise
    except Exception as error:  # a driver's own kinds are many
        hint = "Look at the address and the credentials in the environment (docs/storage.md)."
        raise CaseError(f"{path} cannot be read: {type(error).__name__}: {error}.", where=where, hint=hint) from error


def _text(path: str) -> str:
    if "://" not in path:
        return (Path(path) / MANIFEST).read_text(encoding="utf-8")
    import fsspec  # pyright: ignore[reportMissingTypeStubs] - an extra: only who has remote data needs it

    system, root = fsspec.core.url_to_fs(path)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    text: bytes = system.cat_file(f"{root}/{MANIFEST}")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return text.decode()
