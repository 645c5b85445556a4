"""How the answers of a session compare so far, gathered from its frames."""

from __future__ import annotations

from schemas.frames import Frame


class AnswerComparison:
    """It is kept across frames: a frame without two members to compare no longer contains it.

    at_bytes: the byte at which the members parted, from the last frame that has one; None where they have not parted,
    or where that is unknown. has_agreed: a frame had an agreement. never_parted: they were compared, and were equal up
    to the end of the comparison.
    """

    def __init__(self) -> None:
        self.at_bytes: int | None = None
        self.has_agreed = False
        self._compares = ""

    def add(self, frame: Frame) -> None:
        """Adds the next frame."""
        alignment = frame.alignment
        if alignment.diverged_at_bytes is not None:
            self.at_bytes = alignment.diverged_at_bytes
        self.has_agreed = self.has_agreed or frame.measures.agreement is not None
        self._compares = alignment.compares or self._compares

    @property
    def never_parted(self) -> bool:
        return self.at_bytes is None and self._compares == "next"
