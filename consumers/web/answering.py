"""What the members have said, from the truth: kept in mind for the sessions that were asked for last."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.errors import Refused
from schemas.frames import Frame
from schemas.sessions import Opening
from transport.answers import Answers, find_released
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState, read_opening

# The sessions that are kept in mind, those that were asked for last: at six members of 8,192 tokens, the most there
# are, 1.5 MB each.
_MOST_SESSIONS = 16


class Released(msgspec.Struct, frozen=True):
    """A session at one of its frames: each member's whole answer and thinking, as all frames up to this one have shown
    them. Without a frame nothing has been said."""

    state: SessionState
    opening: Opening
    frame: Frame | None
    texts: Sequence[str]
    thinking: Sequence[str]


class Answering:
    """The answers of the sessions that were asked for."""

    def __init__(self, pipe: AsyncPipe) -> None:
        self._pipe = pipe
        self._answers: dict[str, Answers] = {}

    async def released(self, session: str, window: int | None = None) -> Released:
        """The session at its newest frame, or at that of a window. Raises Refused where that frame is not kept;
        SessionGone, Malformed, RedisAway, RedisRefuses."""
        state, frame = await find_released(self._pipe, session, window)
        if frame is None and window is not None:
            raise Refused(
                "no_window",
                f"The frame of window {window} is not there: windows 0 to {state.window} were committed, and the last "
                "ten minutes of them are kept.",
                status=404,
            )
        answers = await self.answers_of(state)
        await answers.catch_up(self._pipe, state, frame)
        if frame is None:
            silence = [""] * len(answers.opening.members)
            return Released(state, answers.opening, None, silence, silence)
        texts, thinking = answers.texts(frame)
        return Released(state, answers.opening, frame, texts, thinking)

    async def answers_of(self, state: SessionState) -> Answers:
        """What is known of the session, as the last one to be forgotten. Raises SessionGone."""
        answers = self._answers.get(state.session)
        if answers is None:
            read = Answers(await read_opening(self._pipe, state), state.opened)
            # Another request may have come first meanwhile.
            answers = self._answers.get(state.session, read)
        self._answers.pop(state.session, None)
        self._answers[state.session] = answers
        while len(self._answers) > _MOST_SESSIONS:
            del self._answers[next(iter(self._answers))]
        return answers

    def forget(self, session: str) -> None:
        """The session has expired, or Redis was set back: the next call reads all of it again."""
        self._answers.pop(session, None)
