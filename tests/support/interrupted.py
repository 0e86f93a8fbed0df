"""A proof that somebody ends with Ctrl-C."""

import signal
import subprocess
import sys

import psutil

from datahall.real.process import worker_environment


def said_of_an_interrupted_proof(case, folder, word):
    """What `datahall prove` says on stderr after Ctrl-C, sent once a line begins with `word` and processes run.

    It has ended with 130, and every process that it had started is gone.
    """
    run = subprocess.Popen(
        [sys.executable, "-m", "datahall.ui.cli", "prove", str(case), "--runs", str(folder)],
        env=worker_environment(threads=1, interface="lo"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert run.stderr is not None
    assert any(line.startswith(word) for line in run.stderr)
    while not (started := psutil.Process(run.pid).children(recursive=True)):
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    said = run.stderr.read()
    assert run.wait(timeout=30) == 130
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    return said
