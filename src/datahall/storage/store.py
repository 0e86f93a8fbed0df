"""What people and savers do with a whole store: list, find the newest, verify every byte, retire, clean up.

Nothing here needs torch or loads a tensor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from datahall.storage.faults import CorruptShard, NoCheckpoint, StoreFault
from datahall.storage.manifest import MANIFEST, Manifest, digest, is_ours, parse, step_folder, step_of
from datahall.storage.place import Place, open_place

GRACE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found out about one step: `faults` is empty when every byte is what was written."""

    step: int
    stored_bytes: int
    chunks: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """What `collect` removed (or would have): `folder/file` and bytes."""

    path: str
    bytes: int


def committed_steps(place: Place) -> list[int]:
    """Steps that have a manifest, ascending; whether they are whole is `verify`'s question."""
    steps = ((step_of(folder), folder) for folder in place.folders())
    return sorted(step for step, folder in steps if step is not None and MANIFEST in place.files(folder))


def read_manifest(place: Place, step: int) -> Manifest:
    """The manifest of a committed step; NoCheckpoint if there is none, CorruptShard if it was changed."""
    folder = step_folder(step)
    where = f"{place.name}/{folder}/{MANIFEST}"
    try:
        data = place.read(folder, MANIFEST)
    except NoCheckpoint as error:
        raise NoCheckpoint(
            f"step {step} is not committed.", where=place.name, hint="`datahall store ls` lists the steps."
        ) from error
    manifest = parse(data, where)
    if manifest.step != step:
        raise CorruptShard(f"the manifest is that of step {manifest.step}.", where=where)
    return manifest


def verify(path: str | Path | Place, step: int) -> Verdict:
    """Read every byte of a step and compare digests; never raises for damage, names the file instead."""
    place = open_place(path)
    folder = step_folder(step)
    try:
        manifest = read_manifest(place, step)
    except StoreFault as error:
        return Verdict(step, 0, 0, (str(error),))
    faults: list[str] = []
    chunks = 0
    sizes = place.files(folder)
    by_shard: dict[int, list[tuple[int, int, str, str]]] = {n: [] for n in range(len(manifest.shards))}
    for name, chunk in manifest.chunks():
        by_shard[chunk.shard].append((chunk.offset, chunk.stored, chunk.digest, name))
    for number, shard in enumerate(manifest.shards):
        held = sizes.get(shard.name)
        if held is None:
            faults.append(f"{folder}/{shard.name}: the shard is missing (or is a link, which is not followed)")
            continue
        if held[0] != shard.bytes:
            faults.append(f"{folder}/{shard.name}: {held[0]} bytes instead of {shard.bytes}")
        wrong, seen = _verify_shard(place, folder, shard.name, shard.bytes, sorted(by_shard[number]))
        faults += wrong
        chunks += seen
    return Verdict(step, manifest.stored_bytes, chunks, tuple(faults))


def collect(
    path: str | Path | Place,
    keep: int,
    *,
    grace_s: float = GRACE_S,
    dry: bool = False,
    now_s: float | None = None,
    spare: int | None = None,
) -> list[Removed]:
    """Remove committed steps beyond the newest `keep` (0 keeps all) and leftovers of attempts older than `grace_s`.

    `spare` is a step that stays whatever its number.  A step with a damaged manifest, or with shards that are
    missing or of another size, does not count as kept.  A leftover is a shard that no manifest names; younger ones
    may belong to a save in progress and stay.  Other files are somebody else's.
    """
    place = open_place(path)
    now_s = time.time() if now_s is None else now_s
    steps = committed_steps(place)
    retired = set(steps[: _first_kept(place, steps, keep)]) - {spare}
    removed: list[Removed] = []
    for folder in place.folders():
        step = step_of(folder)
        if step is None:
            continue
        files = place.files(folder)
        named = _named(place, step, files)
        # the manifest goes first: a reader then sees no checkpoint, never half of one
        for name in sorted(files, key=lambda entry: entry != MANIFEST):
            stale = now_s - files[name][1] > grace_s
            left = is_ours(name) and named is not _UNKNOWN and name not in named and stale
            if left or (step in retired and name in named):
                removed.append(Removed(f"{folder}/{name}", files[name][0]))
                if not dry:
                    place.remove(folder, name)
        if not dry:
            place.remove_folder(folder)
    return removed


def _first_kept(place: Place, steps: list[int], keep: int) -> int:
    """Where in `steps` the newest `keep` begin that look whole; 0 where there are no more."""
    if not 0 < keep < len(steps):
        return 0
    seen = 0
    for number in range(len(steps) - 1, -1, -1):
        seen += _looks_whole(place, steps[number])
        if seen == keep:
            return number
    return 0


def _looks_whole(place: Place, step: int) -> bool:
    try:
        shards = read_manifest(place, step).shards
    except StoreFault:
        return False
    held = place.files(step_folder(step))
    return all(held.get(shard.name, (-1, 0.0))[0] == shard.bytes for shard in shards)


_UNKNOWN: frozenset[str] = frozenset({MANIFEST})


def _named(place: Place, step: int, files: dict[str, tuple[int, float]]) -> frozenset[str]:
    if MANIFEST not in files:
        return frozenset()
    try:
        return frozenset({MANIFEST, *(shard.name for shard in read_manifest(place, step).shards)})
    except StoreFault:
        return _UNKNOWN  # a damaged manifest: nobody knows what belongs to it, so nothing is a leftover


def _verify_shard(
    place: Place, folder: str, name: str, size: int, chunks: list[tuple[int, int, str, str]]
) -> tuple[list[str], int]:
    faults: list[str] = []
    end = 0
    buffer = bytearray(max((stored for _, stored, _, _ in chunks), default=0))
    for offset, stored, expected, tensor in chunks:
        if offset != end:
            faults.append(f"{folder}/{name}: bytes {end} to {offset} belong to no tensor")
        end = offset + stored
        view = memoryview(buffer)[:stored]
        try:
            got = place.read_into(folder, name, offset, view)
        except StoreFault as error:
            return [*faults, f"{folder}/{name}: {error.what}"], len(chunks)
        if got != stored or digest(view) != expected:
            faults.append(f"{folder}/{name}: bytes {offset} to {end} (tensor {tensor!r}) are not what was written")
    if end != size:
        faults.append(f"{folder}/{name}: bytes {end} to {size} belong to no tensor")
    return faults, len(chunks)
