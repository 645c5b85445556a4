"""One open session of a council, for its caller: frames, a recording, a cancel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol, Unpack

from consumers.web.answer_cache import AnswerCache, whole_answers
from council.recording.keep import record_into
from council.session_frames import frames_of
from recordings.contents import RecordingSummary
from schemas.errors import Refused, SessionGone, expired
from schemas.frames import Decision, Frame
from schemas.rules.arguments import RequestChanges, check_cancel
from schemas.rules.effect import Effect, effects_of
from schemas.rules.partings import Partings, joined_decisions
from schemas.rules.what_if import WholeAnswers
from schemas.sessions import Opening
from transport.redis.connection import AsyncPipe, BlockingPipe
from transport.sessions import cancel_session


class OpensBranches(Protocol):
    """A TurboEnsemble, for its sessions."""

    async def what_if(
        self,
        session: str | Path,
        say: str,
        *,
        at: int | None = None,
        word: int | None = None,
        member: str | int | None = None,
        **changes: Unpack[RequestChanges],
    ) -> EnsembleSession: ...


class EnsembleSession:
    """An open session of an ensemble. `warnings` has a sentence for each part of the request that was left out.

    `agreed` and `decisions` are the council's text and how it agreed on it, in the frames that frames() has yielded;
    decisions that touch and did not decide a parting are joined. Both are empty unless the sync is `consensus`.
    """

    def __init__(
        self,
        pipe: AsyncPipe,
        opening: Opening,
        warnings: tuple[str, ...],
        ensemble: OpensBranches | None = None,
        parent: WholeAnswers | None = None,
    ) -> None:
        """`parent` are the answers of a what-if branch's parent when it was opened."""
        self.opening, self.warnings = opening, warnings
        self._forget()
        self._pipe, self._ensemble, self._parent = pipe, ensemble, parent

    @property
    def session(self) -> str:
        """The session's id."""
        return self.opening.session

    def _forget(self) -> None:
        self.agreed = ""
        self.decisions: list[Decision] = []
        self._partings = Partings()

    def _note(self, frame: Frame) -> None:
        self.agreed += frame.consensus.agreed or ""
        found = frame.consensus.decisions or ()
        self._partings.add(found)
        self.decisions[-1:] = joined_decisions([*self.decisions[-1:], *found])

    @property
    def advice(self) -> str:
        """A sentence where a member of a consensus session has lost nearly all partings so far, with the cheaper
        choice; else empty."""
        return self._partings.advice(self.opening.names)

    async def frames(self) -> AsyncIterator[Frame]:
        """Every frame from window 0 to the final one, as they are committed.

        Raises SetBack where Redis lost frames that were yielded: the text of these may differ from the session's, which
        goes on; call frames() again, which begins with window 0. Raises NoAggregator where no frame arrives for five
        seconds, SessionGone where Redis lost the session, RedisAway where Redis is away for half a minute, CouncilError
        where the session ended without a final frame.
        """
        # A connection of its own: other callers use the session's connection while this one waits.
        pipe = BlockingPipe(self._pipe.url)
        try:
            self._forget()
            async for frame in frames_of(pipe, self.session):
                self._note(frame)
                yield frame
        finally:
            await pipe.close()

    async def record(self, path: Path, *, text: bool = True, stopping: asyncio.Event | None = None) -> RecordingSummary:
        """Records the session from its beginning to its end, or until `stopping` is set, into the new file `path`;
        returns a summary. Without `text` the file contains numbers only. Raises Refused where the file exists or cannot
        be made, SessionGone, Unavailable where it cannot be written."""
        return await record_into(self._pipe, self.session, path, text=text, stopping=stopping)

    async def cancel(self, reason: str = "cancelled", members: Sequence[int] = ()) -> None:
        """Stops the members with these indexes; the others continue. Without indexes it stops all members, and the
        final frame follows. Does nothing if the session has ended or is gone. Raises Refused for a wrong argument."""
        check_cancel(reason, members, len(self.opening.members))
        with contextlib.suppress(SessionGone):
            await cancel_session(self._pipe, self.session, reason, tuple(members))

    async def what_if(
        self,
        say: str,
        *,
        at: int | None = None,
        word: int | None = None,
        member: str | int | None = None,
        **changes: Unpack[RequestChanges],
    ) -> EnsembleSession:
        """Opens a branch of this session, open or ended, as TurboEnsemble.what_if does."""
        assert self._ensemble is not None, "an ensemble has opened this session"
        return await self._ensemble.what_if(self.session, say, at=at, word=word, member=member, **changes)

    async def effect(self) -> dict[str, Effect]:
        """Of a what-if branch, how each member's answer so far differs from its answer in the parent, by its display
        name; members that the parent does not have are left out. Where the parent is gone, its answers are those at the
        opening of the branch. Raises Refused for a session that is not a branch, SessionGone, RedisAway,
        RedisRefuses."""
        if self.opening.parent is None:
            raise Refused("not_a_branch", "The session is not a what-if branch, so it has no effect.")
        parent = self._parent
        with contextlib.suppress(SessionGone):
            parent = await find_answers(self._pipe, self.opening.parent.session)
        if parent is None:
            raise expired(self.opening.parent.session)
        return effects_of(parent, await find_answers(self._pipe, self.session))


async def find_answers(pipe: AsyncPipe, session: str) -> WholeAnswers:
    """The answers of a session that Redis has, as its frames have shown them. Raises SessionGone, RedisAway,
    RedisRefuses."""
    return whole_answers(await AnswerCache(pipe).released(session))
