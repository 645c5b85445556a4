"""What if, over HTTP: branches of sessions and of recordings, and their effects."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from aiohttp import web
from pydantic import Field

from consumers.web.answer_cache import AnswerCache, whole_answers
from consumers.web.api.bodies import WhatIfBody, read_json_body
from consumers.web.api.library import AsyncLibrary
from consumers.web.api.opening import Opener
from consumers.web.api.operations import Operation
from consumers.web.api.replays import for_clients
from consumers.web.api.replies import Opened, Reply
from consumers.web.door.errors import model_response
from recordings.answers import read_answers
from recordings.folder import KeptRecording, Library
from schemas.errors import Malformed, Refused, SessionGone
from schemas.rules.effect import Effect, effects_of
from schemas.rules.served import served_models
from schemas.rules.what_if import WholeAnswers, branch_of, request_of
from transport.redis.connection import AsyncPipe
from transport.register import list_processes

# All branches of a page's tree, a kilobyte each.
_MOST_EFFECTS = 60


class MemberEffect(Reply):
    """How a member's answer differs from its answer in the parent. Positions and lengths are in bytes."""

    member: Annotated[str, Field(description="Its display name.")]
    byte: Annotated[int | None, Field(description="Where the answers begin to differ; null if they are equal.")]
    reach_bytes: Annotated[
        int, Field(description="How much of the branch's answer is another text: up to together_again, or to its end.")
    ]
    reach_words: Annotated[int, Field(description="The same in words.")]
    together_again: Annotated[
        tuple[int, int] | None,
        Field(description="The bytes of the parent's and of the branch's answer from which on both are the same."),
    ]
    last_words: Annotated[tuple[str, str], Field(description="The last words of the parent's and the branch's answer.")]
    last_words_differ: bool


class ShownEffect(Reply):
    """The effect of a branch on each member that its parent has too; null if the parent is gone."""

    session: str
    parent: Annotated[str, Field(description="The parent session.")]
    final: Annotated[bool, Field(description="True if no answer changes any more.")]
    members: list[MemberEffect] | None


class WhatIfApi:
    """The handlers."""

    def __init__(self, pipe: AsyncPipe, answers: AnswerCache, library: AsyncLibrary, opener: Opener) -> None:
        self._pipe, self._answers, self._library, self._opener = pipe, answers, library, opener
        self._effects = _Effects()
        self._reading = asyncio.Lock()
        # The recorded parent that was read last: a page asks for the effect of each of its branches.
        self._read_last: tuple[KeptRecording, WholeAnswers] | None = None

    def operations(self) -> list[Operation]:
        refusals = (404, 408, 409, 413, 415)
        return [
            Operation(
                "POST", "/api/sessions/{session}/what-if", self._branch, "branch_session", "What-if",
                "Open a branch of a session",
                "Puts a text into an answer, and lets all members continue from there, in a session of its own.",
                Opened, refusals, status=201, body=WhatIfBody,
            ),
            Operation(
                "POST", "/api/recordings/{name}/what-if", self._branch_of_recording, "branch_recording", "What-if",
                "Open a branch of a recording",
                "Puts a text into a recorded answer, and lets all members continue from there.",
                Opened, (*refusals, 422), status=201, body=WhatIfBody,
            ),
            Operation(
                "GET", "/api/sessions/{session}/effect", self._effect, "show_effect", "What-if",
                "Show the effect of a branch",
                "How each answer of the branch differs from the same member's answer in the parent.",
                ShownEffect, (404, 409),
            ),
        ]  # fmt: skip

    async def _branch(self, request: web.Request) -> web.Response:
        body = await read_json_body(request, WhatIfBody)
        released = await self._answers.released(request.match_info["session"])
        return await self._opened(body, whole_answers(released), is_own=released.opening.replay is None)

    async def _branch_of_recording(self, request: web.Request) -> web.Response:
        body = await read_json_body(request, WhatIfBody)
        return await self._opened(body, await self._recorded(request.match_info["name"]), is_own=False)

    async def _opened(self, body: WhatIfBody, answers: WholeAnswers, *, is_own: bool) -> web.Response:
        """The response. `is_own`: this council has answered, not the one of a recording."""
        opening = answers.opening
        branch = branch_of(answers, body.change(opening))
        served = [facts.model for facts in served_models(await list_processes(self._pipe))]
        request, warnings = request_of(opening, branch, served, body.given())
        # A recording may be of a machine with more memory.
        usual_tier = opening.tier if is_own else ""
        opened = await self._opener.ask(
            request, body.tier, record=body.record, warnings=warnings, usual_tier=usual_tier
        )
        return model_response(opened, status=201)

    async def _recorded(self, name: str) -> WholeAnswers:
        """The answers in a recording of the library. Raises Refused."""
        path = await self._library.path(name)
        try:
            return await self._library.read_whole(lambda: read_answers(path))
        except (Malformed, Refused) as error:
            raise for_clients(error, str(path), name) from None

    async def _effect(self, request: web.Request) -> web.Response:
        released = await self._answers.released(request.match_info["session"])
        opening = released.opening
        if opening.parent is None:
            raise Refused("not_a_branch", "The session is not a what-if branch, so it has no effect.", status=409)
        parent = await self._parent(opening.parent.session)
        answers, members = whole_answers(released), None
        if parent is not None:
            effects = await self._effects.of(released.state.session, parent, answers)
            members = [MemberEffect(member=name, **msgspec.structs.asdict(one)) for name, one in effects.items()]
        return model_response(
            ShownEffect(
                session=released.state.session,
                parent=opening.parent.session,
                final=answers.ended and (parent is None or parent.ended),
                members=members,
            )
        )

    async def _parent(self, session: str) -> WholeAnswers | None:
        """The answers of the parent: of the session, or else of its recording; None where both are gone."""
        try:
            released = await self._answers.released(session)
        except (SessionGone, Malformed):
            pass
        else:
            return whole_answers(released)
        async with self._reading:
            try:
                kept = await self._library.run(lambda library: _recording_of(library, session))
                if kept is None:
                    return None
                if self._read_last is None or self._read_last[0] != kept:
                    self._read_last = kept, await self._recorded(kept.name)
                return self._read_last[1]
            except Refused:
                return None


class _Effects:
    """Effects, one computed at a time, because two answers of 14,000 words take a quarter of a second; those of the
    sessions that were asked for last are kept, because a page asks again and again."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        # By session: the hash of both sessions' texts, which may be megabytes, and their effect.
        self._kept: dict[str, tuple[int, dict[str, Effect]]] = {}

    async def of(self, session: str, parent: WholeAnswers, branch: WholeAnswers) -> dict[str, Effect]:
        """The effect on the answers of the branch `session`."""
        texts = hash((*parent.texts, *branch.texts))
        async with self._turn:
            kept = self._kept.pop(session, None)
            if kept is None or kept[0] != texts:
                kept = texts, await asyncio.to_thread(effects_of, parent, branch)
            self._kept[session] = kept
            while len(self._kept) > _MOST_EFFECTS:
                del self._kept[next(iter(self._kept))]
        return kept[1]


def _recording_of(library: Library, session: str) -> KeptRecording | None:
    """The session's recording, also an imported one, whose name may be any."""
    return next((kept for kept in library.listed() if kept.about and kept.about.session == session), None)
