"""Activations that wait in files: the same gradients, every byte counted on its way there and back."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from datahall.storage.eviction import Spill  # noqa: E402
from datahall.storage.execute_offload import Offload  # noqa: E402
from datahall.storage.faults import CorruptShard  # noqa: E402


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(64, 64), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers)


def test_gradients_are_the_same_and_every_byte_is_counted(tmp_path: Path) -> None:
    batch = torch.ones(512, 64, requires_grad=True)
    plain, spilled = network(), network()
    plain(batch).square().mean().backward()
    with Offload(tmp_path, limit_bytes=300_000, least_bytes=1000) as offload:
        loss = spilled(batch).square().mean()
    files = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 0 < offload.kept_bytes <= 300_000
    # four Linear keep their input, four Tanh their output, the square its input: each 512 x 64 values of 4 bytes
    forecast = Spill(300_000, 1000)
    for _ in range(9):
        forecast.keeps(512 * 64 * 4)
    assert offload.written_bytes == forecast.written_bytes
    assert files == offload.written_bytes > 0
    loss.backward()
    assert offload.read_bytes == offload.written_bytes
    for one, other in zip(plain.parameters(), spilled.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    offload.clear()
    assert not list(tmp_path.iterdir())


def test_a_damaged_activation_is_an_error_not_a_gradient(tmp_path: Path) -> None:
    with Offload(tmp_path, limit_bytes=0, least_bytes=1) as offload:
        loss = network()(torch.ones(512, 64, requires_grad=True)).square().mean()
    for path in tmp_path.iterdir():
        path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(CorruptShard, match="activation"):
        loss.backward()
    assert offload.written_bytes > 0
