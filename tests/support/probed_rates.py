"""What a probe might say of a machine of two cores, and a case to forecast with it."""

from datahall.case.local import guessed_site
from datahall.case.model import ModelShape
from datahall.case.question import Case, Goal, Training

DEVICE = {
    "linear_flops_per_s": 8e10,
    "wide_flops_per_s": 8e10,
    "attention_flops_per_s": 3e10,
    "memory_bytes_per_s": 2e10,
    "optimiser_bytes_per_s": 1.5e10,
    "launch_s": 1e-6,
    "kernel_s": 2e-6,
    "word_bytes": 4.0,
}
RATES = {
    "device": {f"{dtype}/1 threads/{count} processes": DEVICE for dtype in ("fp32", "bf16") for count in (1, 2)},
    "link": {"bytes_per_s": 1e9, "latency_s": 1e-4},
    "startup": {"seconds": 4.0},
    "noise": {"within_run_share": 0.05},
    "input": {"seconds_per_token": 1e-7},
}


def probed_case() -> Case:
    """A small language model on this machine."""
    model = ModelShape("lm", 4, 256, 8, 4, 32, 704, 256)
    return Case("first", model, Training(1e5, 16, 128), guessed_site()[0], Goal())
