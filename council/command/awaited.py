"""The awaited members of a session: their models load or wait, and the other members do not begin before them."""

from __future__ import annotations

from schemas.frames import Frame
from schemas.grid import FRAME_RATE_HZ

# The claims of a session arrive almost together: a message about them would be shown too short to read.
_SHOWN_AFTER_WINDOWS = FRAME_RATE_HZ // 2


class Awaited:
    """It is kept across frames: a frame contains which members are awaited, and not since when."""

    def __init__(self) -> None:
        self._since: dict[int, int] = {}
        self._frame: Frame | None = None

    def add(self, frame: Frame) -> None:
        """Adds the next frame."""
        for index, member in enumerate(frame.members):
            if not member.awaited:
                self._since.pop(index, None)
            else:
                self._since.setdefault(index, frame.window_index)
        self._frame = frame

    @property
    def members(self) -> tuple[int, ...]:
        """The indexes of the awaited members, once the wait has taken half a second."""
        if self._frame is None or self._windows < _SHOWN_AFTER_WINDOWS:
            return ()
        return tuple(sorted(self._since))

    @property
    def can_go_on(self) -> bool:
        """True where other members could begin without the awaited ones."""
        running = [m for m in self._frame.members if not m.ended] if self._frame else []
        return 0 < len(self.members) < len(running)

    @property
    def seconds(self) -> int:
        """How long the wait has taken."""
        return self._windows // FRAME_RATE_HZ

    @property
    def sentence(self) -> str:
        """The message about the awaited members, without a full stop; empty while there are none."""
        if self._frame is None or not self.members:
            return ""
        parts = []
        for index in self.members:
            member = self._frame.members[index]
            parts.append(
                f"{member.display_name}, which {'loads' if member.state == 'loading' else 'waits for its turn'}"
            )
        return f"waiting for {'; and for '.join(parts)}"

    @property
    def _windows(self) -> int:
        newest = self._frame.window_index if self._frame else 0
        return max((newest - since for since in self._since.values()), default=0)
