"""What the members have written, read from the token stream; cached for the sessions that were asked for last."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.errors import Refused, SetBack
from schemas.frames import Frame
from schemas.rules.what_if import WholeAnswers
from schemas.sessions import Opening
from transport.answers import Answers, find_released
from transport.redis.connection import AsyncPipe
from transport.sessions import SessionState, read_opening

# Six members of 8,192 tokens, the most there can be, take 1.5 MB for each session.
_MOST_SESSIONS = 16


class Released(msgspec.Struct, frozen=True):
    """A session at one of its frames: each member's whole answer and thinking, as all frames up to this one released
    them. Without a frame all texts are empty."""

    state: SessionState
    opening: Opening
    frame: Frame | None
    texts: Sequence[str]
    thinking: Sequence[str]
    may_be_written_again: bool = False

    @property
    def agreed(self) -> str | None:
        """The text of a council that writes one answer; None where each member writes its own."""
        return max(self.texts, key=len) if self.opening.sync == "consensus" else None


def whole_answers(released: Released) -> WholeAnswers:
    """The answers alone."""
    return WholeAnswers(released.opening, released.texts, released.state.status != "open")


class AnswerCache:
    """The answers of the sessions that were asked for last."""

    def __init__(self, pipe: AsyncPipe) -> None:
        self._pipe = pipe
        self._answers: dict[str, Answers] = {}

    async def released(self, session: str, window: int | None = None) -> Released:
        """The session at its newest frame, or at that of a window. Raises Refused if that frame is not kept;
        SessionGone, SetBack, Malformed, RedisAway, RedisRefuses."""
        found = await find_released(self._pipe, session, window)
        state, frame = found.state, found.frame
        if frame is None and window is not None:
            raise Refused(
                "no_window",
                f"The frame of window {window} does not exist: windows 0 to {state.window} were committed, and the "
                "last ten minutes of them are kept.",
                status=404,
            )
        answers = await self.caught_up(state, frame)
        if frame is None:
            empty = [""] * len(answers.opening.members)
            return Released(state, answers.opening, None, empty, empty)
        texts, thinking = answers.texts(frame)
        return Released(state, answers.opening, frame, texts, thinking, found.may_be_written_again)

    async def caught_up(self, state: SessionState, frame: Frame | None) -> Answers:
        """The session's answers up to the frame, read again from the beginning where Redis lost what was read. Raises
        SessionGone, SetBack, RedisAway, RedisRefuses."""
        answers = await self.answers_of(state)
        try:
            await answers.catch_up(self._pipe, state, frame)
        except SetBack:
            self.forget(state.session)
            answers = await self.answers_of(state)
            await answers.catch_up(self._pipe, state, frame)
        return answers

    async def answers_of(self, state: SessionState) -> Answers:
        """The session's answers, which become the last to leave the cache. Raises SessionGone."""
        answers = self._answers.get(state.session)
        if answers is None:
            read = Answers(await read_opening(self._pipe, state), state.opened)
            # Another request may have added the session meanwhile.
            answers = self._answers.get(state.session, read)
        self._answers.pop(state.session, None)
        self._answers[state.session] = answers
        while len(self._answers) > _MOST_SESSIONS:
            del self._answers[next(iter(self._answers))]
        return answers

    def forget(self, session: str) -> None:
        """Drops a session that has expired, or whose data Redis lost: the next call reads all of it again."""
        self._answers.pop(session, None)
