"""Tests measure nothing that is judged by the clock, so they do not wait for the machine's turn."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_turns(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("turns")))
        yield
