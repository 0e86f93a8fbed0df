"""All-reduce algorithms as data: lists of sends that can be checked, counted, priced and carried out.

A schedule says which rank hands which chunk to whom in which step, and whether the receiver adds it or keeps it.
`interpret` plays one without any machine; `execute` plays the same value between processes; `links_estimate` prices
it.  What NCCL and gloo choose inside is not here: it is called "library" and decided by the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datahall.base.errors import UsageError

LIBRARY = "library"  # the algorithm is decided by the library


@dataclass(frozen=True, slots=True, order=True)
class Send:
    """In `step`, `source` hands `chunk` to `target`, which adds it to its own (`reduce`) or replaces its own by it."""

    step: int
    source: int
    target: int
    chunk: int
    reduce: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """An all-reduce over `ranks` of a payload cut into `chunks` nearly equal pieces.

    Sends of one step are simultaneous: each reads what its source held when the step began.
    """

    name: str
    ranks: int
    chunks: int
    sends: tuple[Send, ...]

    @property
    def steps(self) -> int:
        """How many rounds follow each other."""
        return len({send.step for send in self.sends})


@dataclass(frozen=True, slots=True)
class Message:
    """What travels as one piece: neighbouring chunks [first, last] of one step between the same two ranks."""

    step: int
    source: int
    target: int
    first: int
    last: int
    reduce: bool


def schedule(name: str, ranks: int, ranks_per_host: int = 1) -> Schedule:
    """The schedule that `NetworkPlan.algorithm` names.  UsageError if there is none of that name or shape."""
    if ranks < 1:
        raise UsageError(f"an all-reduce needs at least one rank, not {ranks}.", where="network.algorithm")
    if name == "hierarchical":
        return hierarchical(ranks, ranks_per_host)
    if name not in BUILDERS:
        known = ", ".join([*BUILDERS, "hierarchical"])
        raise UsageError(
            f"there is no all-reduce algorithm {name!r}.", where="network.algorithm", hint=f"Known: {known}."
        )
    return BUILDERS[name](ranks)


def ring(ranks: int) -> Schedule:
    """Reduce-scatter, then all-gather, to the right-hand neighbour: 2(n-1) rounds of one n-th of the payload."""
    sends = _ring_sends(list(range(ranks)), [[chunk] for chunk in range(ranks)], 0)
    return Schedule("ring", ranks, ranks, tuple(sends))


def tree(ranks: int) -> Schedule:
    """Binomial reduction to rank 0 and the same tree back: 2 ceil(log2 n) rounds of the whole payload."""
    distances = [2**power for power in range((ranks - 1).bit_length())]
    up = [
        Send(step, rank, rank - distance, 0, True)
        for step, distance in enumerate(distances)
        for rank in range(distance, ranks, 2 * distance)
    ]
    last = 2 * len(distances) - 1
    down = [Send(last - send.step, send.target, send.source, 0, False) for send in up]
    return Schedule("tree", ranks, 1, tuple(sorted(up + down)))


def doubling(ranks: int) -> Schedule:
    """Recursive doubling: partners at distance 1, 2, 4, ... swap the whole payload; fewest rounds, most bytes.

    Ranks beyond the largest power of two hand their payload to a partner first and receive the sum at the end.
    """
    core, first, last_step = _fold(ranks, 1, lambda core: core.bit_length() - 1)
    sends = [
        Send(1 + power, rank, rank ^ (1 << power), 0, True)
        for power in range(core.bit_length() - 1)
        for rank in range(core)
    ]
    return Schedule("doubling", ranks, 1, tuple(sorted(first + sends + last_step)))


def halving_doubling(ranks: int) -> Schedule:
    """Recursive halving (reduce-scatter), then doubling (all-gather): 2 log2 n rounds, bytes of the ring."""
    core, first, last_step = _fold(ranks, 0, lambda core: 2 * (core.bit_length() - 1))
    powers = list(range(core.bit_length() - 1))[::-1]
    sends: list[Send] = []
    kept = {rank: range(core) for rank in range(core)}
    step = 1
    for power in powers:
        for rank in range(core):
            partner, mine = rank ^ (1 << power), kept[rank]
            lower, upper = mine[: len(mine) // 2], mine[len(mine) // 2 :]
            keep, give = (lower, upper) if rank < partner else (upper, lower)
            sends += [Send(step, rank, partner, chunk, True) for chunk in give]
            kept[rank] = keep
        step += 1
    for power in reversed(powers):
        before = dict(kept)
        for rank in range(core):
            partner = rank ^ (1 << power)
            sends += [Send(step, rank, partner, chunk, False) for chunk in before[rank]]
            kept[partner] = range(
                min(before[rank].start, before[partner].start), max(before[rank].stop, before[partner].stop)
            )
        step += 1
    return Schedule("halving-doubling", ranks, core, tuple(sorted(first + sends + last_step)))


def hierarchical(ranks: int, ranks_per_host: int) -> Schedule:
    """Reduce-scatter inside each host, a ring between hosts for each share, all-gather inside: spares the slow link.

    Ranks are numbered host by host.  UsageError unless `ranks_per_host` divides `ranks`.
    """
    if ranks_per_host < 1 or ranks % ranks_per_host:
        raise UsageError(
            f"{ranks} ranks are not a whole number of hosts of {ranks_per_host}.",
            where="network.algorithm",
            hint="Choose a number of ranks that is a multiple of the ranks of one host.",
        )
    hosts, local = ranks // ranks_per_host, ranks_per_host
    shares = [list(range(share * hosts, (share + 1) * hosts)) for share in range(local)]
    sends: list[Send] = []
    for host in range(hosts):
        members = list(range(host * local, (host + 1) * local))
        inside = _ring_sends(members, shares, 0)
        sends += [send for send in inside if send.step < local - 1]
        sends += [_later(send, 2 * (hosts - 1)) for send in inside if send.step >= local - 1]
    for index in range(local):
        members = [host * local + index for host in range(hosts)]
        owned = shares[(index + 1) % local]
        sends += _ring_sends(members, [[chunk] for chunk in owned], local - 1)
    return Schedule("hierarchical", ranks, ranks, tuple(sorted(sends)))


BUILDERS: dict[str, Callable[[int], Schedule]] = {
    "ring": ring,
    "tree": tree,
    "doubling": doubling,
    "halving-doubling": halving_doubling,
}


def interpret(plan: Schedule, held: Sequence[Sequence[float]]) -> list[list[float]]:
    """Play a schedule on `held[rank][chunk]` without a machine; what every rank holds afterwards."""
    state = [list(chunks) for chunks in held]
    for step in sorted({send.step for send in plan.sends}):
        now = [send for send in plan.sends if send.step == step]
        values = [state[send.source][send.chunk] for send in now]
        for send, value in zip(now, values, strict=True):
            state[send.target][send.chunk] = state[send.target][send.chunk] + value if send.reduce else value
    return state


def chunk_bounds(elements: int, chunks: int) -> list[int]:
    """Offsets of the chunks' edges: the first `elements % chunks` chunks are one element longer."""
    size, longer = divmod(elements, chunks)
    return [chunk * size + min(chunk, longer) for chunk in range(chunks + 1)]


def messages(plan: Schedule) -> list[Message]:
    """The sends of a schedule with neighbouring chunks of the same step and pair joined into one message."""
    joined: list[Message] = []
    for send in sorted(plan.sends):
        last = joined[-1] if joined else None
        if last is not None and (last.step, last.source, last.target, last.reduce, last.last + 1) == (
            send.step,
            send.source,
            send.target,
            send.reduce,
            send.chunk,
        ):
            joined[-1] = Message(last.step, last.source, last.target, last.first, send.chunk, last.reduce)
        else:
            joined.append(Message(send.step, send.source, send.target, send.chunk, send.chunk, send.reduce))
    return joined


def bytes_sent(plan: Schedule, elements: int, bytes_per_element: int = 4) -> list[int]:
    """Bytes that each rank hands to the others for a payload of so many elements; exact, also for uneven chunks."""
    bounds = chunk_bounds(elements, plan.chunks)
    sent = [0] * plan.ranks
    for send in plan.sends:
        sent[send.source] += (bounds[send.chunk + 1] - bounds[send.chunk]) * bytes_per_element
    return sent


def _ring_sends(members: list[int], shares: list[list[int]], first_step: int) -> list[Send]:
    """A ring all-reduce among `members` of as many `shares` (lists of chunks) as there are members."""
    count = len(members)
    sends: list[Send] = []
    for step in range(2 * (count - 1)):
        gather = step >= count - 1
        for place, member in enumerate(members):
            share = shares[(place - step + (count if gather else 0)) % count]
            target = members[(place + 1) % count]
            sends += [Send(first_step + step, member, target, chunk, not gather) for chunk in share]
    return sends


def _fold(ranks: int, chunks: int, rounds: Callable[[int], int]) -> tuple[int, list[Send], list[Send]]:
    """The largest power of two, and the sends that bring the ranks beyond it in before and out after."""
    core = 1 << (ranks.bit_length() - 1)
    pieces = range(chunks or core)
    last = 1 + rounds(core)
    before = [Send(0, rank, rank - core, chunk, True) for rank in range(core, ranks) for chunk in pieces]
    after = [Send(last, rank - core, rank, chunk, False) for rank in range(core, ranks) for chunk in pieces]
    return core, before, after


def _later(send: Send, steps: int) -> Send:
    return Send(send.step + steps, send.source, send.target, send.chunk, send.reduce)
