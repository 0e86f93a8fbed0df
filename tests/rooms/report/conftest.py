"""The made-up run that the report's tests share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The module `sample` beside this file."""
    spec = importlib.util.spec_from_file_location("report_sample", Path(__file__).with_name("sample.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def run_folder(sample: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    return sample.write_sample_run(tmp_path_factory.mktemp("runs") / "20260102-030405-first")
