"""Plans that a ranking may have to name, gathered grid by grid in bounded memory.

Of more than 131,072, kept are the best by the goal (of all, and of those that surely fit), the best of
each way to cut, and those that no other beats in time, cost and memory at once.  What is best is for others to say.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from datahall.search.price import Prices

MOST = 1 << 17
_AT_ONCE = 4 * MOST  # gathered before it is looked which may go


class Shortlist:
    """Takes prices as they come; `worth` gives what the goal makes small, `sure` whether memory surely suffices."""

    def __init__(
        self, worth: Callable[[Prices], NDArray[np.float64]], sure: Callable[[Prices], NDArray[np.bool_]]
    ) -> None:
        self._worth, self._sure = worth, sure
        self._parts: list[tuple[Prices, NDArray[np.bool_]]] = []  # with those that may be named however many are better
        self._held = 0

    def add(self, prices: Prices) -> None:
        """More plans."""
        self._parts.append((prices, self._singular(prices)))
        self._held += len(prices)
        if self._held > _AT_ONCE:
            self._parts = [self._reduced()]
            self._held = len(self._parts[0][0])

    def prices(self) -> Prices:
        """Those that may be named, in the order in which they came."""
        return self._reduced()[0]

    def _reduced(self) -> tuple[Prices, NDArray[np.bool_]]:
        found = Prices.joined(prices for prices, _ in self._parts)
        singular = np.concatenate([mask for _, mask in self._parts])
        if len(found) <= MOST:
            return found, singular
        singular[singular] = self._singular(found.chosen(singular))
        worth = self._worth(found)
        named = singular | _best(worth) | _best(np.where(self._sure(found), worth, np.inf))
        return found.chosen(named), singular[named]

    def _singular(self, prices: Prices) -> NDArray[np.bool_]:
        return _best_of_families(prices, self._worth(prices)) | unbeaten(prices)


def unbeaten(prices: Prices) -> NDArray[np.bool_]:
    """Which plans need less money or less memory than every faster one."""
    by_time = np.argsort(prices.total_s)
    found = np.zeros(len(prices), dtype=bool)
    for column in (prices.cost_usd, prices.memory_bytes):
        values = column[by_time]
        found[by_time] |= values < np.r_[np.inf, np.minimum.accumulate(values)[:-1]][: len(values)]
    return found


def _best(worth: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isfinite(worth) & (worth <= np.partition(worth, MOST - 1)[MOST - 1])


def _best_of_families(prices: Prices, worth: NDArray[np.float64]) -> NDArray[np.bool_]:
    names, family = np.unique(prices.families, return_inverse=True)
    best = np.full(len(names), np.inf)
    np.minimum.at(best, family, worth)
    return worth == best[family]
