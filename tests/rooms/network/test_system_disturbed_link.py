"""Under synchronous training delay, jitter and loss change the time and not the weights."""

import subprocess
import sys

import pytest

from datahall.network.execute_namespaces import LinkShape, hosts, missing

pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(missing()), reason=missing())]

TRAIN = """
import sys
import numpy as np
from datahall.network.algorithms import schedule
from datahall.network.execute import all_reduce, listen, socket_mesh
rank, noise = int(sys.argv[1]), float(sys.argv[2])
addresses = [("10.77.0.1", 7100), ("10.77.0.2", 7100)]
mesh = socket_mesh(rank, addresses, listen(*addresses[rank]))
chance = np.random.default_rng(rank)
truth = np.random.default_rng(9).normal(size=2000).astype(np.float32)
weights = np.zeros(2000, dtype=np.float32)
for step in range(20):
    features = chance.normal(size=(32, 2000)).astype(np.float32)
    target = features @ truth + noise * chance.normal(size=32).astype(np.float32)
    gradient = features.T @ (features @ weights - target) / np.float32(32)
    all_reduce(gradient, rank, schedule("ring", 2), mesh)
    weights -= np.float32(0.005) * gradient
print(weights.tobytes().hex())
"""


def weights_after(shape: LinkShape, noise: float = 0.0) -> str:
    with hosts(2, shape) as made:
        ranks = [
            subprocess.Popen(
                made.inside(rank, [sys.executable, "-c", TRAIN, str(rank), str(noise)]),
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        first, second = (process.communicate(timeout=120)[0] for process in ranks)
    assert first == second
    assert len(first) == 2 * 4 * 2000 + 1
    return first


def test_delay_jitter_and_loss_change_time_and_not_weights() -> None:
    undisturbed = weights_after(LinkShape(1e9))
    assert weights_after(LinkShape(1e8, round_trip_s=0.02)) == undisturbed
    assert weights_after(LinkShape(1e8, round_trip_s=0.005, jitter_s=0.005, loss_share=0.01)) == undisturbed
    assert weights_after(LinkShape(1e9), noise=0.1) != undisturbed
