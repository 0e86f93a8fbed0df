"""A loop that datahall did not launch yields the same result schema."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from datahall.real.meter import Meter
from datahall.real.process import worker_environment

WIDTH, BATCH, STEPS = 32, 16, 6


def _loop(meter, model, optimiser):
    torch.manual_seed(0)
    loader = [(torch.randn(BATCH, WIDTH), torch.randn(BATCH, 1)) for _ in range(STEPS)]
    for inputs, targets in meter.batches(loader):
        loss = nn.functional.mse_loss(model(inputs), targets)
        meter.loss(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def _model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


def test_a_plain_loop_is_measured(tmp_path):
    model = _model()
    with Meter(tmp_path / "run", model, tokens_per_step=BATCH) as meter:
        _loop(meter, model, torch.optim.SGD(model.parameters(), lr=0.1))
    counts = meter.result.counts
    assert counts["steps"] == STEPS
    assert counts["samples"] == STEPS * BATCH
    forward = 2 * BATCH * (WIDTH * WIDTH + WIDTH)
    assert counts["matmul_flops"] == STEPS * (3 * forward - 2 * BATCH * WIDTH * WIDTH)  # inputs need no gradient
    assert [round(step.loss, 6) for step in meter.steps][-1] < meter.steps[0].loss
    parts = ("compute", "transfer", "waiting", "input", "optimiser", "other")
    metrics = meter.result.metrics
    assert abs(sum(metrics[part].value for part in parts) - metrics["step_time"].value) < 1e-9
    assert metrics["optimiser"].value > 0
    assert metrics["host_memory"].value > metrics["peak_memory"].value


def test_the_meter_changes_nothing_and_leaves_nothing_behind(tmp_path):
    measured, bare = _model(), _model()
    optimiser = torch.optim.SGD(measured.parameters(), lr=0.1)
    all_reduce = torch.distributed.all_reduce
    with Meter(tmp_path / "run", measured) as meter:
        _loop(meter, measured, optimiser)
    _loop(_NoMeter(), bare, torch.optim.SGD(bare.parameters(), lr=0.1))
    assert all(torch.equal(a, b) for a, b in zip(measured.parameters(), bare.parameters(), strict=True))
    assert torch.distributed.all_reduce is all_reduce
    log = (tmp_path / "run" / "workers" / "0.jsonl").read_bytes()
    measured(torch.randn(2, WIDTH))
    optimiser.step()
    assert (tmp_path / "run" / "workers" / "0.jsonl").read_bytes() == log


def test_a_ddp_loop_trains_as_before_and_its_bytes_are_counted(tmp_path):
    script = Path(__file__).parents[2] / "support" / "metered_ddp.py"
    command = [sys.executable, str(script), str(tmp_path)]
    environment = worker_environment(threads=1, interface="lo")
    ranks = [subprocess.Popen([*command, str(rank)], env=environment) for rank in (0, 1)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    assert int((tmp_path / "bytes").read_text()) == STEPS * 4 * (32 * 64 + 64 + 64 + 1)


class _NoMeter:
    batches = staticmethod(iter)

    def loss(self, value):
        pass
