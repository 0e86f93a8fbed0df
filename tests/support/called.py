"""The command line called in this process, which spares each test the start of another one.

What only a process of its own shows (what is imported, signals, rights) is tested with one.
"""

import contextlib
import io
import os
from dataclasses import dataclass

import pytest

from datahall.ui.cli import main


@dataclass(frozen=True)
class Said:
    """What a call ended with."""

    code: int
    stdout: str
    stderr: str


def datahall(*words, cwd=".", **environment):
    """`datahall WORDS`, in the folder `cwd` and with these variables besides the present ones."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        for name, value in environment.items():
            patch.setenv(name, os.fspath(value))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in words])
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue())
