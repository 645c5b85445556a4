"""The log of a process: structlog's lines on standard error. structlog is imported with the first line.

It imports rich, which costs 6 MB and 0.1 s in each process; a process without trouble writes no line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any


class Log:
    """Writes events of `level` and above, each with the same fields."""

    def __init__(self, level: int, **fields: object) -> None:
        self._level, self._fields = level, fields

    def bind(self, **fields: object) -> Log:
        """A log that adds these fields to each line."""
        return Log(self._level, **self._fields | fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, "info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, "warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, "error", event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Writes an error with the traceback of the current exception, without variables, which contain prompts."""
        self._write(logging.ERROR, "exception", event, fields)

    def _write(self, level: int, method: str, event: str, fields: dict[str, object]) -> None:
        if level < self._level:
            return
        # The terminal may be closed: a role works on without one.
        with contextlib.suppress(OSError):
            getattr(_structlog(), method)(event, **{**self._fields, **fields})


def _structlog() -> Any:
    """structlog's logger, for the present standard error."""
    import structlog

    render = structlog.dev.ConsoleRenderer(
        # Plain: rich's traceback contains the variables of each frame, and so prompts.
        colors=sys.stderr.isatty(),
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
        pad_event_to=0,
    )
    processors: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"), render]
    return structlog.wrap_logger(structlog.PrintLogger(sys.stderr), processors=processors)


def log_to_stderr(role: str) -> Log:
    """The log of this process. COUNCIL_LOG sets the level. Prompts and tokens are logged at the level debug at most."""
    name = os.environ.get("COUNCIL_LOG", "warning").upper()
    return Log(logging.getLevelNamesMapping().get(name, logging.WARNING), role=role)
