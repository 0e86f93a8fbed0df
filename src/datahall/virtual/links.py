"""The links of a site as plain numbers, from one device's view: the scale-up domain and the way out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class LinkRates:
    """Bytes per second in one direction that collectives reach, and seconds of an empty message."""

    up_bytes_per_s: Any
    up_latency_s: Any
    domain: Any  # devices that the scale-up links join
    out_bytes_per_s: Any
    out_latency_s: Any
    oversubscription: Any = 1.0


def stack_links(sites: Sequence[LinkRates]) -> LinkRates:
    """The links of several sites as arrays, element i being `sites[i]`."""
    names = [field.name for field in fields(LinkRates)]
    return LinkRates(**{name: np.array([float(getattr(one, name)) for one in sites]) for name in names})
