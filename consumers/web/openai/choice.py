"""One choice of a response: its session, and the parts of its text as the frames release them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from consumers.web.api.replies import Opened
from consumers.web.openai.composing import ChoiceText, FinishReason, NewText
from consumers.web.openai.following import Arrived, SessionFollower
from consumers.web.openai.logprobs import MemberTokens, MixtureTokens, TokenLogprob
from consumers.web.openai.tally import CouncilPart, Tally, TokenUsage
from schemas.entries import Finished
from schemas.errors import CouncilError, Refused
from transport.ends import find_finished
from transport.redis.connection import AsyncPipe
from transport.sessions import cancel_session

STOPPED = "a stop text ended its answer"
CLIENT_GONE = "its client has disconnected"


class ChoicePart(msgspec.Struct, frozen=True):
    """The next part of a choice: its text, the tokens that end in it (None where they were not requested), how many
    characters of tokens came before; `finish` is set in the last part."""

    text: NewText
    logprobs: Sequence[TokenLogprob] | None
    offset: int
    finish: FinishReason | None
    council: CouncilPart


class AskedChoice:
    """One choice, whose session was opened. `logprobs` is how many alternatives its tokens have; None without any."""

    def __init__(
        self,
        pipe: AsyncPipe,
        opened: Opened,
        *,
        is_agreed: bool,
        stops: Sequence[str],
        logprobs: int | None,
        warnings: Sequence[str],
    ) -> None:
        self.session, self.warnings = opened.session, (*warnings, *opened.warnings)
        self._pipe, self._is_agreed, self._logprobs = pipe, is_agreed, logprobs
        self._members = len(opened.names)
        self._is_lone = self._members == 1 and not is_agreed
        self._text = ChoiceText(opened.names, is_agreed=is_agreed, stops=stops)
        self._tally = Tally(opened.session, opened.names, self.warnings)
        self._tokens, self._mixture = MemberTokens(logprobs or 0), MixtureTokens(logprobs or 0)
        # How many characters of tokens were returned.
        self._offset = 0
        self._stopped: set[int] = set()
        self._is_over = False

    @property
    def council(self) -> CouncilPart:
        """The `council` object so far."""
        return self._tally.council

    @property
    def usage(self) -> TokenUsage:
        """The tokens so far."""
        return self._tally.usage

    async def parts(self, is_wanted: Callable[[], bool]) -> AsyncIterator[ChoicePart | None]:
        """The parts, to the last one; None while no text comes.

        Raises ClientGone as soon as `is_wanted` returns False; Refused where every member was dropped before it wrote
        anything; and as SessionFollower does.
        """
        follower = SessionFollower(self._pipe.url, self.session, is_wanted)
        reading = follower.only_member() if self._is_lone else follower.frames()
        async with contextlib.aclosing(follower), contextlib.aclosing(reading):
            async for arrived in reading:
                self._is_over = bool(arrived.frames) and arrived.frames[-1].final
                text, logprobs = self._add(arrived), self._logprobs_of(arrived)
                has_ended = self._text.has_ended
                if has_ended:
                    await self._end(arrived)
                elif self._text.stopped - self._stopped:
                    await self._stop_members()
                if text.content or text.thinking or logprobs or has_ended:
                    finish = self._text.finish_reason if has_ended else None
                    yield ChoicePart(text, logprobs, self._offset, finish, self._tally.council)
                    self._offset += sum(len(token.token) for token in logprobs or ())
                else:
                    yield None
                if has_ended:
                    return

    def _add(self, arrived: Arrived) -> NewText:
        """Takes in what arrived; returns what follows of the text."""
        if arrived.tokens is None:
            found = []
            for frame in arrived.frames:
                self._tally.add(frame)
                found.append(self._text.add(frame))
        else:
            self._tally.add_tokens(arrived.tokens)
            found = [self._text.add_tokens(arrived.tokens)]
            for frame in arrived.frames:
                self._tally.show(frame)
                found.append(self._text.add_end(frame))
        return NewText("".join(one.content for one in found), "".join(one.thinking for one in found))

    def _logprobs_of(self, arrived: Arrived) -> list[TokenLogprob] | None:
        if self._logprobs is None:
            return None
        if arrived.tokens is not None:
            return self._tokens.add(arrived.tokens, self._text.shown_bytes)
        return self._mixture.add(arrived.frames, self._text.shown_bytes)

    async def _end(self, arrived: Arrived) -> None:
        """The text has ended: of a stop text before its session has. Raises Refused where there is no text."""
        if self._text.failure:
            raise Refused("no_answer", self._text.failure, status=502)
        self._tally.end(await self._finished(arrived))
        if not self._is_over:
            await self.cancel(STOPPED)

    async def _finished(self, arrived: Arrived) -> Mapping[int, Finished]:
        """The marks of the members that finished, for the tokens of their prompts; empty before the session is over."""
        if arrived.tokens is not None:
            return {0: arrived.finished} if arrived.finished is not None else {}
        if self._is_over:
            with contextlib.suppress(CouncilError):
                return await find_finished(self._pipe, self.session, range(self._members))
        return {}

    async def _stop_members(self) -> None:
        """Stops the members whose answers ended at a stop text; the others go on."""
        self._stopped = self._text.stopped
        with contextlib.suppress(CouncilError):
            await cancel_session(self._pipe, self.session, STOPPED, tuple(sorted(self._stopped)))

    async def cancel(self, reason: str) -> None:
        """Cancels the session, unless it is over. Redis may be away: then the session ends by its own limits."""
        if not self._is_over:
            self._is_over = True
            with contextlib.suppress(CouncilError):
                await cancel_session(self._pipe, self.session, reason)
