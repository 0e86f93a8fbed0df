"""Long files first; and in continuous integration a test that is skipped has failed.

A skipped test means that a real part was missing, and nobody would notice.  Only tests of material that does not belong
to the project may be skipped there; their reason begins with "optional:".
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

LONG = ("worlds/test_proof", "worlds", "rooms/real", "docs", "rooms/storage")  # real processes, the longest file first
HERE = Path(__file__).parent
_skipped: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def own_turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing here is judged by the clock, so that no test waits for another's turn on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("turns")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two workers that take file after file, none is left alone with a long one at the end."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(HERE).as_posix()
        return next((number for number, start in enumerate(LONG) if path.startswith(start)), len(LONG))

    items.sort(key=place)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if report.skipped and not hasattr(report, "wasxfail") and "optional:" not in reason:
        _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if os.environ.get("CI") and _skipped and exitstatus == 0 and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") and _skipped:
        terminalreporter.section("skipped, which fails in continuous integration")
        for line in _skipped:
            terminalreporter.line(line)
