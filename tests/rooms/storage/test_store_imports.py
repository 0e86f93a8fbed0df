"""Planning a store needs no library of those who write one."""

from __future__ import annotations

import subprocess
import sys


def test_forecasts_and_policies_load_without_the_libraries_of_the_writer() -> None:
    blocked = ["torch", "xxhash", "fsspec", "zstandard", "lz4", "cramjam", "blosc2", "safetensors"]
    rooms = "datahall.storage.estimate, datahall.storage.choice, datahall.storage.plan, datahall.storage.eviction"
    program = f"import sys\nfor name in {blocked}: sys.modules[name] = None\nimport {rooms}, datahall.storage.order"
    subprocess.run([sys.executable, "-c", program], check=True)
