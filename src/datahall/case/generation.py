"""What a case wants generated: prompts, how long the answers are, and a cache of prompts that begin alike.

`datahall generate` carries it out; training does not look at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PrefixWish:
    """A prefix cache that the case allows: `use` auto (where it pays), always or never.

    An empty policy and a block of 0 tokens are chosen.  `tier` is a folder or URL for what leaves memory; empty: none.
    """

    memory_bytes: float = 0.0
    policy: str = ""
    block_tokens: int = 0
    use: str = "auto"
    tier: str = ""
    tier_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Generation:
    """`requests` prompts in batches of `batch`, each with an answer of `answer` tokens.

    `prompts` is "shared" (of `prompt` tokens, of which the first `shared` are one of `begins` beginnings), "apart"
    (nothing in common), or a file of JSON lines with `prompt` (a text) or `tokens`.
    """

    prompts: str = "shared"
    requests: int = 32
    prompt: int = 256
    shared: int = 192
    begins: int = 2
    answer: int = 16
    batch: int = 4
    cache: PrefixWish = PrefixWish()


MADE = ("shared", "apart")


def generation_from_json(data: dict[str, Any]) -> Generation:
    """What `dataclasses.asdict` and JSON made of it."""
    fields: dict[str, Any] = {**data, "cache": PrefixWish(**data["cache"])}
    return Generation(**fields)
