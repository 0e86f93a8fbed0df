"""Prompts for a case's generation: from a file of JSON lines, or made from the standard library's text by seed.

Tokens are bytes, or those of the case's weights.  What the prompts mean is nobody's business here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datahall.base.errors import UsageError
from datahall.case.generation import MADE, Generation
from datahall.case.question import Case
from datahall.workloads.pretrained import tokenizer_of, weights_folder
from datahall.workloads.text import VOCABULARY, raw_text

_BYTES_A_TOKEN = 16  # as much text as surely gives a token


def batches_of(case: Case, wanted: Generation) -> list[list[list[int]]]:
    """The prompts as token ids, in batches.  UsageError for a file that has none, or tokens the model does not know."""
    encode = _encoder(case)
    if wanted.prompts in MADE:
        prompts = made_prompts(wanted, case.application.seed, encode)
    else:
        prompts = read_prompts(Path(wanted.prompts), encode, case.model.vocab)
    return [prompts[at : at + wanted.batch] for at in range(0, len(prompts), wanted.batch)]


def text_of(case: Case) -> Callable[[Sequence[int]], str]:
    """What turns token ids of the case's model into text."""
    if not case.application.weights:
        return lambda tokens: bytes(token for token in tokens if token < VOCABULARY).decode("utf-8", "replace")
    tokenizer = tokenizer_of(weights_folder(case.application.weights))
    return lambda tokens: str(tokenizer.decode(list(tokens)))


def made_prompts(wanted: Generation, seed: int, encode: Callable[[str], list[int]]) -> list[list[int]]:
    """As many prompts as wanted, each a piece of the text; what they share stands first."""
    chance, text = random.Random(seed), raw_text()

    def piece(tokens: int) -> list[int]:
        size = tokens * _BYTES_A_TOKEN
        at = chance.randrange(len(text) - size)
        return encode(text[at : at + size].decode("utf-8", "replace"))[:tokens]

    shared = wanted.shared if wanted.prompts == "shared" else 0
    begins = [piece(shared) for _ in range(wanted.begins)] if shared else [[]]
    return [chance.choice(begins) + piece(wanted.prompt - shared) for _ in range(wanted.requests)]


def read_prompts(file: Path, encode: Callable[[str], list[int]], vocab: int) -> list[list[int]]:
    """The prompts of a file of JSON lines, each with `tokens` or a text as `prompt`."""
    hint = 'Write lines like {"prompt": "a text"} or {"tokens": [1, 2, 3]}.'
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the prompts cannot be read ({error}).", where=str(file), hint=hint) from error
    prompts: list[list[int]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            prompts.append(_prompt(line, f"{file}:{number}", hint, encode, vocab))
    if not prompts:
        raise UsageError("there are no prompts.", where=str(file), hint=hint)
    return prompts


def _prompt(line: str, where: str, hint: str, encode: Callable[[str], list[int]], vocab: int) -> list[int]:
    try:
        told: Any = json.loads(line)
        tokens = list(told["tokens"]) if "tokens" in told else encode(str(told["prompt"]))
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"this is no prompt ({error}).", where=where, hint=hint) from error
    known = all(type(token) is int and 0 <= token < vocab for token in tokens)
    if not tokens or not known:
        what = "has tokens that the model does not know" if tokens else "has no token"
        raise UsageError(f"the prompt {what}: it has {vocab:,}, from 0.", where=where, hint=hint)
    return tokens


def _encoder(case: Case) -> Callable[[str], list[int]]:
    if not case.application.weights:
        return lambda text: list(text.encode())
    tokenizer = tokenizer_of(weights_folder(case.application.weights))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
