"""Whether a codec pays on a tier, or a cache before it: measured rates in, reasons out.  Nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from datahall.storage.estimate import break_even_bytes_per_s, cache_gain_s, coded_s
from datahall.storage.eviction import Eviction, replay

_SHRINKS: Final = 1.02  # below this a codec stores the data as they are, and its rate differs from none by chance
WORTH_IT: Final = 0.05  # below this a codec's gain is within the noise of any disk


@dataclass(frozen=True, slots=True)
class CodecRate:
    """A codec on one kind of data: raw bytes over stored bytes, and raw bytes/s of a whole client in each direction."""

    codec: str
    ratio: float
    encode_bytes_per_s: float
    decode_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Tier:
    """A place for shards as one client of it sees it."""

    write_bytes_per_s: float
    read_bytes_per_s: float
    latency_s: float = 0.0
    overlap: float = 0.25
    clients: int = 1
    shards: int = 4


@dataclass(frozen=True, slots=True)
class Option:
    """What a codec would take on a tier.  Below `break_even_bytes_per_s` it writes faster than without a codec."""

    codec: str
    write_s: float
    read_s: float
    stored_bytes: float
    break_even_bytes_per_s: float

    def total_s(self, reads_per_write: float) -> float:
        """Seconds of one write and its reads."""
        return self.write_s + reads_per_write * self.read_s


def options(raw_bytes: float, rates: Sequence[CodecRate], tier: Tier, reads_per_write: float = 1.0) -> list[Option]:
    """All codecs, the fastest first; of equals the one that is named first."""
    found: list[Option] = []
    for rate in rates:

        def seconds(codec_rate: float, tier_rate: float, ratio: float = rate.ratio) -> float:
            return float(
                coded_s(
                    raw_bytes,
                    ratio,
                    codec_rate,
                    tier.shards,
                    tier.clients,
                    float("inf"),
                    tier_rate,
                    tier.latency_s,
                    tier.overlap,
                )
            )

        even = float(break_even_bytes_per_s(rate.ratio, rate.encode_bytes_per_s, tier.overlap))
        write = seconds(rate.encode_bytes_per_s, tier.write_bytes_per_s)
        read = seconds(rate.decode_bytes_per_s, tier.read_bytes_per_s)
        found.append(Option(rate.codec, write, read, raw_bytes / rate.ratio, even))
    return sorted(found, key=lambda option: option.total_s(reads_per_write))


def pick_codec(raw_bytes: float, rates: Sequence[CodecRate], tier: Tier, reads_per_write: float = 1.0) -> Option:
    """The codec with the shortest time for a write and its reads; none, unless another saves `WORTH_IT` of it."""
    shrinking = [rate for rate in rates if rate.codec == "none" or rate.ratio > _SHRINKS]
    found = options(raw_bytes, shrinking or rates, tier, reads_per_write)
    plain = next((option for option in found if option.codec == "none"), found[0])
    worth = found[0].total_s(reads_per_write) < (1.0 - WORTH_IT) * plain.total_s(reads_per_write)
    return found[0] if worth else plain


@dataclass(frozen=True, slots=True)
class CacheForecast:
    """What a cache will do for a known order of accesses: hits, and seconds gained, negative when it loses."""

    accesses: int
    hits: int
    gain_s: float

    @property
    def pays(self) -> bool:
        """Whether to use it."""
        return self.gain_s > 0

    def sentence(self) -> str:
        """The verdict as people read it, before anything has run."""
        verdict = "saves" if self.pays else "loses"
        advice = "" if self.pays else " Do not use it."
        return f"The cache answers {self.hits} of {self.accesses} reads and {verdict} {abs(self.gain_s):.2g} s.{advice}"


def cache_forecast(
    policy: Eviction, accesses: Sequence[tuple[str, int]], slow_s: float, fast_s: float, fill_s: float
) -> CacheForecast:
    """Tell a fresh `policy` of the accesses (key, bytes); seconds are means of a fetch, a hit, and keeping a miss."""
    hits = replay(policy, accesses).hits
    gain = cache_gain_s(len(accesses), hits / max(1, len(accesses)), slow_s, fast_s, 0.0, fill_s)
    return CacheForecast(len(accesses), hits, float(gain))
