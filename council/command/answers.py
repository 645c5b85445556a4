"""What a session's frames have said so far about how its members' answers go together."""

from __future__ import annotations

from schemas.frames import Frame


class AnswerComparison:
    """Kept across frames: those without two members to compare say nothing of it any more.

    at_bytes: where the members parted, as the last frame that knew it says; None where they have not, or where nobody
    knows. has_agreed: there was a frame in which they were found to agree to some degree. never_parted: they were
    compared, and were the same up to where that ended.
    """

    def __init__(self) -> None:
        self.at_bytes: int | None = None
        self.has_agreed = False
        self._compares = ""

    def add(self, frame: Frame) -> None:
        """Takes in the next frame."""
        alignment = frame.alignment
        if alignment.diverged_at_bytes is not None:
            self.at_bytes = alignment.diverged_at_bytes
        self.has_agreed = self.has_agreed or frame.measures.agreement is not None
        self._compares = alignment.compares or self._compares

    @property
    def never_parted(self) -> bool:
        return self.at_bytes is None and self._compares == "next"
