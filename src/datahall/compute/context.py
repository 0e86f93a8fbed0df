"""Which tokens of a sequence each context rank works on, and what of other ranks' tokens they look at.

A sequence of 2 x ranks equal pieces; rank r has piece r and, counted from the end, piece r again.  So every rank looks
back on as many tokens as the others: causal work is balanced.
"""

from __future__ import annotations

from datahall.base.errors import Refused


def own_positions(sequence: int, ranks: int, rank: int) -> list[int]:
    """The positions that context rank `rank` works on, in order; Refused where they cannot be shared out evenly."""
    check_pieces(sequence, ranks)
    piece = sequence // (2 * ranks)
    behind = 2 * ranks - 1 - rank
    return [*range(rank * piece, (rank + 1) * piece), *range(behind * piece, (behind + 1) * piece)]


def check_pieces(sequence: int, ranks: int) -> None:
    """Refused unless a sequence can be cut into two equal pieces for each context rank."""
    if ranks > 1 and sequence % (2 * ranks):
        raise Refused(
            f"a sequence of {sequence} cannot be cut into {2 * ranks} equal pieces for {ranks} context ranks.",
            where="plan.compute.context",
            hint="Choose a sequence that 2 x context divides.",
        )


def seen_of(own: int, other: int, tokens: int) -> tuple[slice, slice]:
    """Which of its `tokens` queries rank `own` turns to rank `other`'s keys, and to which: all of those, unmasked."""
    half = tokens // 2
    if other < own:  # its first piece lies before both of ours, its second behind both
        return slice(0, tokens), slice(0, half)
    return slice(half, tokens), slice(0, tokens)  # both of its pieces lie between ours
