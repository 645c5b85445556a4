"""The Python API: an ensemble that answers a prompt, frame by frame.

async with TurboEnsemble(tier="mid") as ensemble:
    print(await ensemble.ask("What is a generator?", ["ngram:word-3", "ngram:char-6"]))
    async for frame in ensemble.generate_ensemble("What is a list?", ["ngram:word-3", "ngram:char-6"]):
        print(frame.energy, frame.measures.diversity_index, [member.text for member in frame.members])
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from consumers.web.api.members import member_index
from council.answers import MemberAnswers, read_answers_of
from council.connection import CouncilConnection, tiers_of
from council.ensemble_session import EnsembleSession, find_answers
from council.models.catalogue import (
    canonical_request,
)
from council.settings.schema import Settings, load_settings
from recordings.answers import read_answers
from recordings.contents import SUFFIX
from schemas.errors import CouncilError, Refused
from schemas.frames import Frame
from schemas.rules.admission import Admission, admit
from schemas.rules.arguments import (
    AskOptions,
    RequestChanges,
    changes_from,
    check_council,
    check_place,
    check_types,
    request_from,
)
from schemas.rules.councils import with_named_council
from schemas.rules.limits import limits_with
from schemas.rules.served import named_councils, named_members, require_aggregator, served_models
from schemas.rules.tiers import tier_named
from schemas.rules.what_if import Change, branch_of, request_of
from schemas.sessions import MemberSpec, SessionRequest
from transport.redis.connection import AsyncPipe
from transport.sessions import new_session_id, open_session
from transport.status import processes_for


class TurboEnsemble:
    """A council of local models.

    `redis_url` is the council's Redis. Without it the council that runs on this machine is used; where none runs, a
    private one is started, and ended at the end of `async with`, outside which the object is not used. `tier` (low,
    mid, high, hybrid) limits the members of a session; without it the running council's tier is used, or the one for
    this machine's memory.
    """

    def __init__(
        self, tier: str | None = None, redis_url: str | None = None, *, settings: Settings | None = None
    ) -> None:
        """Raises Refused for an unknown tier, an argument of the wrong type, or invalid settings."""
        check_council(tier, redis_url)
        self._settings = settings or load_settings(None, {"redis_url": redis_url})
        own_tier = tier_named(tier, self._settings.tier_policies).name if tier else None
        self._limits = limits_with(self._settings.limits)
        self._council = CouncilConnection(self._settings, own_tier)
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_private(self) -> bool:
        """True while a private council of this object starts or runs."""
        return self._council.is_private

    async def close(self) -> None:
        """Ends the private council, if there is one."""
        self._is_open = False
        await self._council.close()

    async def ask(
        self, prompt: str, models: Sequence[str | MemberSpec] | str | None = None, **options: Unpack[AskOptions]
    ) -> MemberAnswers:
        """Opens a session and returns its answers, when all members have ended. The arguments and errors are those of
        generate_ensemble. A caller that is cancelled cancels the session."""
        request = request_from(prompt, models, options, "ask")
        session = await self._open_named(request, options.keys())
        async with contextlib.AsyncExitStack() as unfinished:
            unfinished.push_async_callback(_cancel, session)
            answers = await read_answers_of(session)
            unfinished.pop_all()
        return answers

    def generate_ensemble(
        self, prompt: str, models: Sequence[str | MemberSpec] | str | None = None, **options: Unpack[AskOptions]
    ) -> AsyncIterator[Frame]:
        """Opens a session and yields its frames; a caller that stops early cancels the session.

        `models` are the members: each a model's name, the name of a member in the settings, or a description such as
        "calm=smollm2:temperature=0" (schemas/rules/members.py); or the name of a council in the settings,
        whose values count where an option is left out. Without them the council's own members answer.

        | option | default | |
        |---|---|---|
        | weights | 1 | each member's weight in the measurements, by its name |
        | system | "" | the system text |
        | max_tokens, temperature, seed | 512, 0.7, None | of each member's answer |
        | history | () | the turns before the prompt, each a Message |
        | options | {} | each member's own temperature, seed and max_tokens, by its name |
        | allow_remote | False | whether the prompt may be sent to a remote member |
        | weighting | "fixed" | "certainty": each weight is multiplied by its member's certainty |
        | sync | "step" | text is released as far as the slowest member has written; "free": as it arrives |

        With the sync "consensus" the members write one answer, frame.consensus.agreed.

        Raises Refused for an argument that is not valid, before anything is started, and TypeError for an unknown
        option; else as open() and EnsembleSession.frames() do. After SetBack the session is cancelled, as after any
        error: a caller that wants to go on uses open() and EnsembleSession.frames().
        """
        return self._frames(request_from(prompt, models, options, "generate_ensemble"), options.keys())

    async def _frames(self, request: SessionRequest, given: Collection[str]) -> AsyncIterator[Frame]:
        session = await self._open_named(request, given)
        final = False
        try:
            async for frame in session.frames():
                final = frame.final
                yield frame
        finally:
            if not final:
                await _cancel(session)

    async def what_if(
        self,
        session: str | Path,
        say: str,
        *,
        at: int | None = None,
        word: int | None = None,
        member: str | int | None = None,
        **changes: Unpack[RequestChanges],
    ) -> EnsembleSession:
        """Opens a branch of a session: its members continue an answer of it up to a place, and then `say`.

        `session` is the id of one that the running council has, open or ended, or the path of a recording: a Path, or
        a text that ends with .mcap. The place is the byte `at` of the answer of `member` (index or name; by default the
        first member whose answer has that place), or its word number `word`, from 1. The branch has the prompt, members
        and options of its parent but for the `changes`; where these name no models, members whose model is not served
        here are left out. Raises Refused and TypeError as generate_ensemble does, and as open() does; SessionGone,
        Malformed for a damaged recording.
        """
        self._require_open()
        check_place(session, say, at, word, member)
        changes = changes_from(changes, "what_if")
        path = _recording(session)
        if path is None:
            answers = await find_answers(await self._council.running(), str(session))
        else:
            answers = await asyncio.to_thread(read_answers, path)
        index = None if member is None else member_index(str(member), answers.opening)
        branch = branch_of(answers, Change(say, at, word, index))
        request, warnings = request_of(answers.opening, branch, await self._council.usable_models(), changes)
        # A recording may be of a machine with more memory.
        is_own = path is None and answers.opening.replay is None
        pipe, admission = await self._opened(request, answers.opening.tier if is_own else "")
        return EnsembleSession(pipe, admission.opening, (*warnings, *admission.warnings), self, answers)

    async def open(self, request: SessionRequest, given: Collection[str] = ()) -> EnsembleSession:
        """Opens a session; members beyond those that the tier runs at once are left out, and warnings name them. Values
        of the fields `given` outweigh those of a named council also where they are the defaults. Raises Refused for an
        invalid request, before anything is started, and where Redis is full; NoAggregator, RedisAway, RedisRefuses."""
        check_types(request)
        pipe, admission = await self._opened(request, given=given)
        return EnsembleSession(pipe, admission.opening, admission.warnings, self)

    async def _open_named(self, request: SessionRequest, given: Collection[str]) -> EnsembleSession:
        """As open(); refuses more members than the tier runs, for callers that do not read the warnings first."""
        pipe, admission = await self._opened(request, given=given, may_leave_out=False)
        return EnsembleSession(pipe, admission.opening, admission.warnings, self)

    async def _opened(
        self, request: SessionRequest, usual_tier: str = "", *, given: Collection[str] = (), may_leave_out: bool = True
    ) -> tuple[AsyncPipe, Admission]:
        """(the connection to the council that answers, what was admitted and opened there). `usual_tier` is used where
        the council has it and this object has none. Without `may_leave_out` more members than the tier runs are
        refused."""
        self._require_open()
        own = with_named_council(request, self._settings.named_councils, given)
        pipe = await self._council.for_request(canonical_request(own), request.models, may_leave_out=may_leave_out)
        session = new_session_id()
        records = await processes_for(pipe, session)
        tiers = tiers_of(records) or self._settings.tier_policies
        tier = self._council.tier_among(tiers, records, usual_tier)
        councils = named_councils(records)
        admission = admit(
            canonical_request(request if councils else own), session, served_models(records), tier, self._limits,
            known=self._council.known_models(records), tiers=tiers,
            named=named_members(records) or self._settings.member_specs, councils=councils, given=given,
            may_leave_out=may_leave_out,
        )  # fmt: skip
        require_aggregator(records)
        await open_session(pipe, admission.opening)
        return pipe, Admission(admission.opening, (*self._council.left_out, *admission.warnings))

    async def meet_for_replay(self) -> AsyncPipe:
        """A connection to the council that runs, or to a private one without models. Raises Refused, Unavailable."""
        self._require_open()
        return await self._council.for_replay()

    def _require_open(self) -> None:
        """Raises Refused outside `async with`: a private council that was started there would not be ended."""
        if not self._is_open:
            raise Refused(
                "not_open", "The ensemble is not open: use it inside `async with TurboEnsemble() as ensemble:`."
            )


async def _cancel(session: EnsembleSession) -> None:
    """Cancels the session where its council still runs."""
    with contextlib.suppress(CouncilError):
        await session.cancel()


def _recording(session: str | Path) -> Path | None:
    """The path of a recording; None for the id of a session, which does not end like a recording."""
    return Path(session) if isinstance(session, Path) or session.endswith(SUFFIX) else None
