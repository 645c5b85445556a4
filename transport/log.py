"""What a process writes about its own work: one line for each event on standard error.

2026-11-29T19:50:00.123456Z [warning] Redis is back role=producer model=ngram:char-6
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from datetime import UTC, datetime


class Log:
    """Writes events of `level` and above, each with the same fields."""

    def __init__(self, level: int, **fields: object) -> None:
        self._level, self._fields = level, fields

    def bind(self, **fields: object) -> Log:
        """A log that writes these fields as well."""
        return Log(self._level, **self._fields | fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error, with the traceback of the current exception; without variables, which hold prompts."""
        self._write(logging.ERROR, event, fields, traceback.format_exc())

    def _write(self, level: int, event: str, fields: dict[str, object], after: str = "") -> None:
        if level < self._level:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        pairs = (f" {name}={_shown(value)}" for name, value in {**self._fields, **fields}.items())
        line = f"{now} [{logging.getLevelName(level).lower()}] {event}{''.join(pairs)}\n{after}"
        # The terminal may be gone: a role works on without one.
        with contextlib.suppress(OSError):
            sys.stderr.write(line)
            sys.stderr.flush()


def _shown(value: object) -> str:
    """The value on one line; in quotes where its end could not be seen."""
    text = str(value)
    return text if text.isprintable() and text and " " not in text else repr(text)


def log_to_stderr(role: str) -> Log:
    """The process's log. COUNCIL_LOG sets the level; prompts and tokens are never logged above debug."""
    name = os.environ.get("COUNCIL_LOG", "warning").upper()
    return Log(logging.getLevelNamesMapping().get(name, logging.WARNING), role=role)
