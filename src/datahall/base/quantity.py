"""What an estimate takes and gives: one plain number, or a NumPy array of them (one element a plan).

Counts that must be exact are Python integers elsewhere; this is the type of seconds, bytes and rates.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Quantity: TypeAlias = float | NDArray[np.float64]
