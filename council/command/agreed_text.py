"""The text of a council that writes one answer, on standard output as it is agreed."""

from __future__ import annotations

from typing import TextIO

from recordings.plain import plain_text
from schemas.frames import Frame


class AgreedText:
    """Writes the text alone, each part once. A terminal receives it without control characters."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._is_terminal = out, out.isatty()
        self._written = self._agreed = ""

    def begin(self) -> None:
        """The session is read from its beginning again. Text that is the same is not written twice."""
        self._agreed = ""

    def add(self, frame: Frame) -> None:
        """Adds the next frame."""
        if not frame.consensus.agreed:
            return
        self._agreed += frame.consensus.agreed
        if self._agreed.startswith(self._written):
            self._write(self._agreed[len(self._written) :])
        elif not self._written.startswith(self._agreed):
            # What is written is not the council's text any more: it is written whole, below that.
            self._write(f"\n\n{self._agreed}")
        else:
            return
        self._written = self._agreed

    def end(self) -> None:
        """Ends the last line."""
        if self._written and not self._written.endswith("\n"):
            self._write("\n")

    def _write(self, text: str) -> None:
        self._out.write(plain_text(text) if self._is_terminal else text)
        self._out.flush()
