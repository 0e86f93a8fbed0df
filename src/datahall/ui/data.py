"""`datahall data`: a text as shards that a case can name, on a disk or in an object store."""

from __future__ import annotations

import click

from datahall.base.errors import EXIT_FAILED, UsageError
from datahall.base.units import human, parse
from datahall.storage.faults import StoreFault
from datahall.storage.shards import FORMS, ShardSet, open_shards, write_shards
from datahall.storage.text_file import read_text


@click.group()
def data() -> None:
    """Data sets in shards: a folder or any URL that fsspec writes (s3://bucket/prefix)."""


@data.command()
@click.argument("text")
@click.argument("path")
@click.option("--shard", default="1 MiB", show_default=True, help="Text in a shard.")
@click.option("--limit", help='Take only the beginning of the text, such as "8 MiB".')
@click.option("--form", type=click.Choice(FORMS), default="tokens", show_default=True, help="What the shards hold.")
@click.option("--merges", default=0, show_default=True, type=click.IntRange(0, 65_000), help="Of byte pairs.")
@click.option("--codec", default="none", show_default=True, help="A lossless one of docs/storage.md.")
def shard(text: str, path: str, shard: str, limit: str | None, form: str, merges: int, codec: str) -> None:
    """Cut TEXT, a file or `stdlib`, into shards at PATH; the last 2 % are held out.

    Tokens are bytes, or pairs of them that were merged (--merges).  Shards hold tokens, or the text itself (--form
    text), which then becomes tokens each time it is read.
    """
    whole = _text(text)[: int(parse(limit, "bytes")) if limit else None]
    made = write_shards(path, whole, int(parse(shard, "bytes")), form=form, codec_name=codec, merges=merges)
    click.echo(_line(path, made))


@data.command()
@click.argument("path")
def verify(path: str) -> int:
    """Read and prepare every shard of the data set at PATH; names each damaged one and exits with 1."""
    found = open_shards(path)
    faults = 0
    for one in found.shards:
        try:
            found.prepared(one)
        except StoreFault as error:
            faults += 1
            click.echo(f"{error.where}: {error.what}")
    click.echo(f"{path}: {faults} of {len(found.shards)} shards damaged" if faults else _line(path, found))
    return EXIT_FAILED if faults else 0


def _line(path: str, found: ShardSet) -> str:
    tokens, stored = sum(one.tokens for one in found.shards), sum(one.stored_bytes for one in found.shards)
    return (
        f"{path}: {len(found.shards)} shards of {found.form}, {found.held_out} held out; {tokens:,} tokens of"
        f" {found.vocab:,}, {human(stored, 'bytes')} stored; preparing one takes {human(found.prepare_s, 'seconds')}"
    )


def _text(text: str) -> bytes:
    if text != "stdlib":
        return read_text(text, "TEXT")
    try:
        from datahall.workloads.text import raw_text
    except ModuleNotFoundError as error:
        raise UsageError(f"`stdlib` needs {error.name}.", hint="Install datahall[train], or name a file.") from error
    return raw_text()
