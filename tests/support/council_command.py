"""The `council` command as a subprocess: its arguments, and what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.project import ROOT

COUNCIL = [sys.executable, "-m", "council"]


class Outcome:
    """A command's exit code, standard output (`out`) and standard error (`said`)."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.said = done.returncode, done.stdout, done.stderr

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of its output: frames, and last the summary."""
        return [json.loads(line) for line in self.out.splitlines()]

    def assert_refused(self, *words: str) -> None:
        """Exit code 2, nothing on standard output, and on standard error a sentence with these words, no traceback."""
        assert (self.code, self.out) == (2, ""), (self.code, self.out, self.said)
        self.assert_said(*words)

    def assert_said(self, *words: str) -> None:
        assert "Traceback" not in self.said, self.said
        for word in words:
            assert word in self.said, self.said


def environment(url: str | None = None, **variables: str) -> dict[str, str]:
    """A command's environment: this project on the path; without `url` no Redis is named."""
    found = {
        name: value for name, value in os.environ.items() if not name.startswith("COUNCIL_") and name != "REDIS_URL"
    }
    found["PYTHONPATH"] = str(ROOT)
    return found | ({"REDIS_URL": url} if url else {}) | variables


def council(
    *arguments: str, url: str | None = None, cwd: Path | None = None, stdin: str = "", **variables: str
) -> Outcome:
    """Runs `council ARGUMENTS` to its end."""
    done = subprocess.run(
        [*COUNCIL, *arguments], env=environment(url, **variables), cwd=cwd, input=stdin,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return Outcome(done)
