"""Robustness as dose and response: delay, jitter, loss, one slow worker, label noise under synchronous training.

    python benchmarks/link_robustness.py > docs/tables/link-robustness.md     (root; two minutes)

Plain exchange, the subject of slow_links.py, 32 equal steps, one seed, 1 Gbit/s.  Whatever disturbs the link or a
worker changes seconds; only label noise may change the weights.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict

sys.path.insert(0, __file__.rpartition("/")[0])

from slow_links import workers

from datahall.network.execute_namespaces import LinkShape, hosts
from datahall.network.plan import NetworkPlan

STEPS = 32
RATE = 1e9
DOSES: list[tuple[str, str, LinkShape, dict[str, float]]] = [
    ("none", "", LinkShape(RATE), {}),
    *[("delay there and back", f"{ms} ms", LinkShape(RATE, ms / 1e3), {}) for ms in (2, 10, 50)],
    *[("jitter one way, with 10 ms", f"{ms} ms", LinkShape(RATE, 0.01, ms / 1e3), {}) for ms in (2, 10)],
    *[("loss, with 10 ms", f"{100 * p:g} %", LinkShape(RATE, 0.01, 0.0, p), {}) for p in (0.001, 0.01)],
    *[
        ("one slow worker", f"{ms} ms a step", LinkShape(RATE), {"slow_rank": 1, "slow_s": ms / 1e3})
        for ms in (20, 100)
    ],
    *[("label noise", f"{100 * p:g} %", LinkShape(RATE), {"label_noise": p}) for p in (0.1, 0.3)],
]


def main() -> None:
    """Run every dose and print the responses."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are removed
    print("# Dose and response under synchronous training\n")
    print("Printed by `benchmarks/link_robustness.py`.\n")
    print("| dose | amount | ms a step | against none | validation loss | same weights as none |")
    print("|---|---:|---:|---:|---:|---|")
    undisturbed: tuple[float, float] | None = None
    for name, amount, shape, knobs in DOSES:
        with hosts(2, shape) as made, workers(made) as both:
            both.order(do="prepare", plan=asdict(NetworkPlan()), seed=1)
            done = both.order(do="train", seed=1, target=0.0, max_steps=STEPS, **knobs)[0]
        step_s, weights = done["seconds"] / STEPS, done["fingerprint"]
        undisturbed = undisturbed or (step_s, weights)
        same = "yes" if weights == undisturbed[1] else "no"
        loss = done["curve"][-1][2]
        print(
            f"| {name} | {amount} | {1e3 * step_s:.0f} | {step_s / undisturbed[0]:.1f} | {loss:.3f} | {same} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
