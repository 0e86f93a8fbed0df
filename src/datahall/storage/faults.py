"""What can go wrong with a store, each as an error of its own, so that callers decide without reading texts.

WorldFailed
  StoreFault          anything that a store reports
    CorruptShard      a byte of a shard or of a manifest is not what was written; the file is named
    NoCheckpoint      nothing is committed (or nothing that is whole)
    AlreadyCommitted  somebody else has committed this step
    Torn              the state changed while a save in the background copied it
    Unsafe            a name or a value that tries to leave the store or to be more than data
"""

from __future__ import annotations

from datahall.base.errors import WorldFailed


class StoreFault(WorldFailed):
    """Anything that a store reports."""


class CorruptShard(StoreFault):
    """A byte is not what was written.  `where` names the file."""


class NoCheckpoint(StoreFault):
    """Nothing is committed, or nothing of it is whole."""


class AlreadyCommitted(StoreFault):
    """The step was committed by another writer."""


class Torn(StoreFault):
    """The state changed before its copy was whole: there is nothing to commit."""


class Unsafe(StoreFault):
    """A name that tries to leave the store, or something in the place of plain data."""
