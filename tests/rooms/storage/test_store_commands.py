"""`datahall store` as people use it, and the files that it exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from datahall.base.errors import UsageError  # noqa: E402
from datahall.storage import execute  # noqa: E402
from datahall.storage.execute_export import export_safetensors  # noqa: E402
from datahall.storage.faults import NoCheckpoint  # noqa: E402
from datahall.ui.store import store  # noqa: E402


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(store, [str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    for step in (1, 2, 3):
        state = {"model": {"a": torch.full((100, 50), float(step)), "b": torch.arange(7).bfloat16()}, "step": step}
        execute.save(path, step, state, codec="planes")
    return path


def test_listing_verifying_and_cleaning(full: Path) -> None:
    listed = json.loads(call("ls", full, "--json").output)["steps"]
    assert [row["step"] for row in listed] == [1, 2, 3]
    assert listed[0]["raw_bytes"] == 100 * 50 * 4 + 7 * 2
    assert "planes" in call("ls", full).output
    assert call("verify", full).return_value == 0
    shard = next((full / "step-00000002").glob("*.shard"))
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    found = call("verify", full)
    assert found.return_value == 1
    assert shard.name in found.output
    assert json.loads(call("verify", full, "--step", "3", "--json").output)["steps"][0]["faults"] == []
    assert "would be removed" in call("gc", full, "--keep", "1", "--dry-run").output
    assert call("gc", full, "--keep", "1").return_value == 0
    assert [row["step"] for row in json.loads(call("ls", full, "--json").output)["steps"]] == [3]


def test_an_empty_store_is_said_to_be_empty(tmp_path: Path) -> None:
    for verb in ("ls", "verify"):
        assert isinstance(call(verb, tmp_path).exception, NoCheckpoint)


def test_exported_tensors_are_those_that_were_saved(full: Path, tmp_path: Path) -> None:
    assert call("export", full, tmp_path / "out", "--step", "2").return_value == 0
    found = safetensors.load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["a"], torch.full((100, 50), 2.0))
    assert torch.equal(found["b"], torch.arange(7).bfloat16())
    files = export_safetensors(full, tmp_path / "parts", file_bytes=1000)
    index = json.loads(files[-1].read_text())
    together = {
        name: safetensors.load_file(tmp_path / "parts" / file)[name] for name, file in index["weight_map"].items()
    }
    assert sorted(together) == ["a", "b"]
    assert torch.equal(together["a"], torch.full((100, 50), 3.0))
    with pytest.raises(UsageError, match="model"):
        export_safetensors(full, tmp_path / "none", prefix="weights.")


def test_advice_on_a_slow_link_is_to_compress_and_says_how_often_to_save(full: Path) -> None:
    execute.save(full, 4, {"model": {"w": torch.randn(2_000_000).bfloat16()}})
    advice = json.loads(call("advise", full, "--bytes-per-s", "1 MB/s", "--hardware-mtbf", "3 days", "--json").output)
    assert advice["picked"]["codec"] in {"planes", "blosc2", "zstd"}
    assert advice["interval_s"] == pytest.approx((2 * advice["picked"]["write_s"] * 3 * 86400) ** 0.5)
    fast = json.loads(call("advise", full, "--bytes-per-s", "900 GB/s", "--json").output)
    assert all(option["break_even_bytes_per_s"] < 900e9 for option in fast["options"])
    took = {option["codec"]: option["write_s"] + option["read_s"] for option in fast["options"]}
    assert fast["picked"]["codec"] == "none" or took[fast["picked"]["codec"]] < 0.95 * took["none"]  # a busy machine
    assert "a sample of step 4" in call("advise", full, "--bytes-per-s", "1 MB/s").output
