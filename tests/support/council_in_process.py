"""The `council` command in this process, which starts faster than a process of its own."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import pytest

from council.command.cli import run
from tests.support.council_command import Outcome


def council(*arguments: str, **variables: str) -> Outcome:
    """Runs `council ARGUMENTS`. Raises each exception for which the command has no sentence."""
    out, said, code = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", ["council", *arguments])
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            run()
        except SystemExit as end:
            code = int(end.code or 0)
        out.flush()
        written = out.buffer
    assert isinstance(written, io.BytesIO)
    done = subprocess.CompletedProcess(list(arguments), code, written.getvalue().decode(), said.getvalue())
    return Outcome(done)
