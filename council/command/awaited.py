"""Who is waited for in a session: members whose models load or wait, before which the others do not begin."""

from __future__ import annotations

from schemas.frames import Frame
from schemas.grid import FRAME_RATE_HZ

# Claims of one session come within moments of each other: a sentence for those would only flash.
_SAID_AFTER_WINDOWS = FRAME_RATE_HZ // 2


class Awaited:
    """Kept across frames, since a frame says who is awaited and not since when."""

    def __init__(self) -> None:
        self._since: dict[int, int] = {}
        self._frame: Frame | None = None

    def add(self, frame: Frame) -> None:
        """Takes in the next frame."""
        for index, member in enumerate(frame.members):
            if not member.awaited:
                self._since.pop(index, None)
            else:
                self._since.setdefault(index, frame.window_index)
        self._frame = frame

    @property
    def members(self) -> tuple[int, ...]:
        """The indexes of those that are waited for, once that has taken half a second."""
        if self._frame is None or self._windows < _SAID_AFTER_WINDOWS:
            return ()
        return tuple(sorted(self._since))

    @property
    def can_go_on(self) -> bool:
        """True where others are there that could begin without those who are waited for."""
        running = [m for m in self._frame.members if not m.ended] if self._frame else []
        return 0 < len(self.members) < len(running)

    @property
    def seconds(self) -> int:
        """How long the wait has taken."""
        return self._windows // FRAME_RATE_HZ

    @property
    def sentence(self) -> str:
        """Who is waited for, without a full stop; empty while there is nothing to say."""
        if self._frame is None or not self.members:
            return ""
        said = []
        for index in self.members:
            member = self._frame.members[index]
            said.append(
                f"{member.display_name}, which {'loads' if member.state == 'loading' else 'waits for its turn'}"
            )
        return f"waiting for {'; and for '.join(said)}"

    @property
    def _windows(self) -> int:
        newest = self._frame.window_index if self._frame else 0
        return max((newest - since for since in self._since.values()), default=0)
